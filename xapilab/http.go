package xapilab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBody is the size of a call that xapi still reads.
const maxBody = 300 << 20

// listen starts the servers of the hosts.
func (l *Lab) listen() error {
	listeners, err := listenBoth(l.ctx)
	if err != nil {
		return err
	}
	_, l.port, _ = net.SplitHostPort(listeners[0].Addr().String())
	urls, prints := []*string{&l.URL, &l.Member}, []*string{&l.Fingerprint, &l.MemberFingerprint}
	var ca []byte
	for i, host := range []*object{l.master, l.member} {
		certificate, err := newCertificate(addresses[i])
		if err != nil {
			return err
		}
		der := certificate.Certificate[0]
		ca = append(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		*prints[i] = strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(der)), " ", ":")
		l.add("Certificate", map[string]any{"type": "host", "host": host.ref, "fingerprint": *prints[i]})
		*urls[i] = "https://" + net.JoinHostPort(addresses[i], l.port)
		server := &http.Server{
			Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.serve(host, w, r) }),
			TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
			TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // no HTTP/2
			ReadHeaderTimeout: time.Minute,
			ErrorLog:          log.New(io.Discard, "", 0),
		}
		listener := listeners[i]
		l.work.Go(func() { _ = server.ServeTLS(listener, "", "") })
		l.stop = append(l.stop, server.Close)
	}
	return os.WriteFile(l.CA, ca, 0o600)
}

// listenBoth listens on the same port of both addresses.
func listenBoth(ctx context.Context) (both [2]net.Listener, err error) {
	var config net.ListenConfig
	for range 20 {
		if both[0], err = config.Listen(ctx, "tcp", addresses[0]+":0"); err != nil {
			return both, err
		}
		_, port, _ := net.SplitHostPort(both[0].Addr().String())
		if both[1], err = config.Listen(ctx, "tcp", net.JoinHostPort(addresses[1], port)); err == nil {
			return both, nil
		}
		_ = both[0].Close()
	}
	return both, err
}

func newCertificate(address string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: address}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// serve answers a request to a host.
func (l *Lab) serve(host *object, w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	if l.ctx.Err() != nil {
		l.mu.Unlock()
		return
	}
	l.work.Add(1) // Close waits for what a call starts
	l.mu.Unlock()
	defer l.work.Done()
	name := r.Method + " " + r.URL.Path
	switch {
	case r.Method == http.MethodPost && slices.Contains([]string{"/", "/RPC2"}, r.URL.Path):
		l.serveCall(host, w, r)
	case name == "PUT /import_raw_vdi", name == "CONNECT /console":
		l.serveStream(host, name, w, r)
	default:
		http.NotFound(w, r)
	}
}

// serveCall answers a call by XML-RPC.
func (l *Lab) serveCall(host *object, w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 {
		http.Error(w, "Transfer-Encoding is not supported", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return
	}
	method, params, err := readCall(bytes.NewReader(body))
	if err != nil || method == "" {
		http.Error(w, "bad XML-RPC", http.StatusInternalServerError)
		return
	}
	f := l.fault(method)
	if l.lost(f) {
		l.note(method, params, "lost")
		panic(http.ErrAbortHandler)
	}
	if f.Status != 0 {
		l.note(method, params, strconv.Itoa(f.Status))
		http.Error(w, http.StatusText(f.Status), f.Status)
		return
	}
	out := l.carryOut(host, method, params, f)
	if f.Lose == After {
		panic(http.ErrAbortHandler)
	}
	if l.config.Judge != nil {
		said := l.config.Judge.Exchange(body, out)
		l.locked(func() { l.judged = append(l.judged, said...) })
	}
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("Cache-Control", "no-cache, no-store")
	_, _ = w.Write(out) // the client may be gone
}

// carryOut carries out a call and returns the answer.
func (l *Lab) carryOut(host *object, method string, params []any, f Fault) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var v any
	var err error
	if f.Error != nil && !strings.HasPrefix(method, "Async.") {
		err = failure(f.Error)
	} else {
		v, err = l.run(host, method, params, f)
	}
	failed := asFailure(err)
	code := ""
	if failed != nil {
		code = failed[0]
	}
	if f.Lose == After {
		code = "lost"
	}
	l.noteLocked(method, params, code)
	return answer(v, failed)
}

func (l *Lab) note(method string, params []any, code string) {
	l.locked(func() { l.noteLocked(method, params, code) })
}

func (l *Lab) noteLocked(method string, params []any, code string) {
	if !slices.Contains(noSession, method) && len(params) > 0 && strings.Contains(method, ".") {
		params = params[1:]
	}
	l.calls = append(l.calls, Call{Method: method, Params: params, Code: code, At: time.Now()})
}

// serveStream answers a request whose connection then carries something else.
func (l *Lab) serveStream(host *object, name string, w http.ResponseWriter, r *http.Request) {
	query := map[string]any{}
	for _, c := range r.Cookies() {
		query[c.Name] = c.Value
	}
	for k, v := range r.URL.Query() {
		query[k] = v[0]
	}
	get := func(k string) string { v, _ := query[k].(string); return v }
	f := l.fault(name)
	if l.lost(f) {
		l.note(name, []any{query}, "lost")
		panic(http.ErrAbortHandler)
	}
	stop := func(status int) {
		l.note(name, []any{query}, strconv.Itoa(status))
		w.Header().Set("Connection", "close")
		http.Error(w, http.StatusText(status), status)
	}
	if f.Status != 0 {
		stop(f.Status)
		return
	}
	l.mu.Lock()
	_, known := l.sessions[get("session_id")]
	other := l.member.text("address")
	if host == l.member {
		other = l.master.text("address")
	}
	l.mu.Unlock()
	if !known {
		stop(http.StatusUnauthorized)
		return
	}
	if f.Redirect {
		w.Header().Set("Location", "https://"+net.JoinHostPort(other, l.port)+r.URL.RequestURI())
		stop(http.StatusFound)
		return
	}
	var begin func(conn net.Conn, in io.Reader)
	var status int
	if name == "CONNECT /console" {
		begin, status = l.console(host, get("ref"), get("uuid"))
	} else {
		begin, status = l.importer(r, get, f)
	}
	if status != http.StatusOK {
		stop(status)
		return
	}
	l.note(name, []any{query}, "")
	conn, in, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	ended := context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	defer func() { ended(); _ = conn.Close() }() // it carries nothing more
	begin(conn, in)
}

// okHeader is what xapi sends before it reads the body.
const okHeader = "HTTP/1.1 200 OK\r\nconnection: close\r\ncache-control: no-cache, no-store\r\n"

// importer returns what carries out an import, and the HTTP status.
func (l *Lab) importer(r *http.Request, get func(string) string, f Fault) (func(net.Conn, io.Reader), int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(r.TransferEncoding) > 0 || r.ContentLength < 0 {
		return nil, http.StatusForbidden
	}
	format := get("format")
	if format != "" && format != "raw" && format != "vhd" {
		return nil, http.StatusNotFound
	}
	task, none := l.find("task", get("task_id"))
	if denied := permit(l.sessions[get("session_id")], "http/put_import_raw_vdi", "vm-admin"); denied != nil {
		if none == nil { // xapi_http.ml
			l.endTask(task, "", asFailure(denied))
		}
		return nil, http.StatusForbidden
	}
	vdi, err := l.find("VDI", get("vdi"))
	if err != nil {
		return nil, http.StatusInternalServerError
	}
	if none != nil {
		task = l.newTask("Importing raw VDI", get("session_id"), false)
		task.called = false
	}
	path, limit := l.path(vdi), vdi.int("virtual_size")
	return func(conn net.Conn, in io.Reader) {
		_, _ = io.WriteString(conn, okHeader+"task-id: "+task.ref+"\r\ncontent-type: application/octet-stream\r\n\r\n") // the client may be gone
		// xapi attaches the VDI to the host's own domain after the answer (import_raw_vdi.ml).
		var vbd *object
		l.locked(func() {
			if l.inUse(vdi) {
				l.endTask(task, "", fail("VDI_IN_USE", vdi.ref, ""))
				return
			}
			vbd = l.add("VBD", map[string]any{"VM": l.with("VM", "is_control_domain", true)[0].ref, "VDI": vdi.ref, "mode": "RW", "currently_attached": true})
		})
		if vbd == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n") // likewise
			return
		}
		body := io.LimitReader(in, r.ContentLength)
		if f.Cut > 0 {
			body = io.LimitReader(body, f.Cut)
		}
		written := l.importBody(path, limit, task, format, body, r.ContentLength)
		var failed failure
		if written != nil {
			failed = fail("VDI_IO_ERROR", "Device I/O errors")
		} else {
			failed = f.TaskError
		}
		if written == nil || f.Lose == After {
			l.locked(func() { l.remove(vbd) })
		} else {
			l.later(l.config.Moment, func() { l.remove(vbd) })
		}
		l.locked(func() { l.endTask(task, "", failed) })
		if written != nil && f.Cut == 0 {
			// What is left of the body is read as requests.
			_, _ = io.WriteString(conn, "HTTP/1.1 500 Internal Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n") // likewise
		}
	}, http.StatusOK
}

// importBody writes a body into the file of a VDI with limit bytes.
func (l *Lab) importBody(path string, limit int64, task *object, format string, body io.Reader, size int64) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	read := &counter{r: body, tell: func(n int64) {
		l.locked(func() { l.set(task, "progress", float64(n*100/max(size, 1))/100) })
	}}
	if format == "vhd" {
		return readVHD(read, file, limit)
	}
	n, err := copySparse(file, io.LimitReader(read, limit+1))
	if err == nil && (n < size || n > limit) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// screen is how much of a console's past whoever attaches to it gets.
const screen = 4096

// console returns what carries a console's text, and the HTTP status. A console is reached
// at the host that its VM runs on, while it runs.
func (l *Lab) console(host *object, ref, uuid string) (func(net.Conn, io.Reader), int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found := l.with("console", "uuid", uuid); len(found) == 1 {
		ref = found[0].ref
	}
	o := l.objects[ref]
	if o == nil || o.kind.name != "console" {
		return nil, http.StatusInternalServerError
	}
	vm := l.objects[o.text("VM")]
	guest := l.guests[vm]
	if guest == nil || vm.text("power_state") != "Running" || vm.text("resident_on") != host.ref {
		return nil, http.StatusInternalServerError
	}
	rfb := o.text("protocol") == "rfb"
	return func(conn net.Conn, in io.Reader) {
		_, _ = io.WriteString(conn, okHeader+"\r\n") // the client may be gone
		gone := make(chan struct{})
		go func() { _, _ = io.Copy(io.Discard, in); close(gone) }()
		if rfb {
			_, _ = io.WriteString(conn, "RFB 003.003\n") // likewise
			<-gone
			return
		}
		for sent := -1; ; {
			var still bool
			l.locked(func() { still = l.guests[vm] == guest })
			text, err := guest.Console()
			if err != nil {
				return
			}
			if sent < 0 {
				sent = max(0, len(text)-screen)
			}
			if _, err := conn.Write(text[sent:]); err != nil || !still {
				return
			}
			sent = len(text)
			select {
			case <-gone:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}, http.StatusOK
}
