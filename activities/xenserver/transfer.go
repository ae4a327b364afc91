package xenserver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

const (
	// stall is how long a host may take none of the bytes that are sent: an SR may be slow.
	stall = 5 * time.Minute
	// verdictTimeout is how long the pool may take to end the task of an import after the end
	// of its connection.
	verdictTimeout = 20 * time.Second
)

// upload fills a VDI with size bytes of body, which is opened when a host is ready for them.
// format is "raw", or "vhd": then body is a VHD of the VDI. name is that of the import's
// task, which upload destroys. progress is told how many bytes are sent. The caller compares
// the VDI's size with the disk's: to the pool a short import is a success.
func (p *pool) upload(ctx context.Context, vdi ref, name, format string, size int64, body func() (io.ReadCloser, error), progress func(sent int64)) error {
	var task ref
	if err := p.call(ctx, &task, "task.create", name, "import of a boot disk"); err != nil {
		return err
	}
	err := p.send(ctx, vdi, task, format, size, body, progress)
	if err != nil && code(err) == "" {
		_ = p.abandon(ctx, task) // if the import did not begin, nothing else ends it; Destroy removes what stays
	}
	return err
}

// send sends an import and returns the verdict of its task, which it then destroys: the host
// answers 200 before it reads the body. An error without a code leaves the task.
func (p *pool) send(ctx context.Context, vdi, task ref, format string, size int64, body func() (io.ReadCloser, error), progress func(int64)) error {
	to, err := p.put(ctx, vdi, task, format, size)
	if err != nil {
		return err
	}
	// Bytes that the host has not read may be lost at the end of the connection, so it
	// stays for the verdict.
	defer to.Close() //nolint:errcheck // nothing more is sent
	broken := to.copy(size, body, progress)
	if broken != nil {
		_ = to.Close()
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, to) // the connection ends with the import, or with the host
		select {
		case <-time.After(p.grace):
			cancel()
		case <-wait.Done():
		}
	}()
	_, err = p.await(wait, task, func(float64) { progress(size) })
	switch {
	case broken != nil && code(err) == "":
		return cmp.Or(ctx.Err(), broken) // the end of ctx may show as an error of the body
	case err != nil && code(err) == "" && wait.Err() != nil && ctx.Err() == nil:
		return unreachable(to.host, errors.New("the host ended the connection, and the import's task goes on"))
	}
	return err
}

// put begins an import at the pool's master. It follows one redirect to another host.
func (p *pool) put(ctx context.Context, vdi, task ref, format string, size int64) (*stream, error) {
	v, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{"session_id": {v.session}, "task_id": {string(task)}, "vdi": {string(vdi)}, "format": {format}}
	host := v.master
	for followed := false; ; followed = true {
		to, err := p.request(ctx, host, http.MethodPut, "/import_raw_vdi", query, fmt.Sprintf("Content-Length: %d\r\n", size))
		if err != nil || to.resp.StatusCode == http.StatusOK {
			return to, err
		}
		_ = to.Close()
		next, err := to.resp.Location()
		if followed || to.resp.StatusCode != http.StatusFound || err != nil || next.Scheme != "https" {
			return nil, p.refuses(to, v)
		}
		host = at(next, next.Hostname())
	}
}

// refuses returns the error of an answer other than 200.
func (p *pool) refuses(s *stream, v visit) error {
	e := &step.Error{Err: fmt.Errorf("%s answers HTTP %s", s.host.Host, s.resp.Status)}
	switch s.resp.StatusCode {
	case http.StatusUnauthorized:
		p.leave(v) // the next try logs in
	case http.StatusForbidden:
		e.Kind, e.Field, e.Hint = step.Unauthorized, "profile", answers["RBAC_PERMISSION_DENIED"].hint
	}
	return e
}

// console connects to a console of protocol vt100 of a VM that runs: one that is paused has none. It reads
// what the VM prints from now on, until it is closed or ctx is done.
func (p *pool) console(ctx context.Context, console ref) (io.ReadCloser, error) {
	var host ref
	var address string
	record, err := one[consoleRecord](ctx, p, "console", console)
	if err == nil {
		err = p.call(ctx, &host, "VM.get_resident_on", record.VM)
	}
	if err == nil {
		err = p.call(ctx, &address, "host.get_address", host) // HANDLE_INVALID if the VM does not run
	}
	if err != nil {
		return nil, err
	}
	v, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	s, err := p.request(ctx, at(v.master, address), http.MethodConnect, "/console", url.Values{"ref": {string(console)}, "session_id": {v.session}}, "")
	if err != nil {
		return nil, err
	}
	if s.resp.StatusCode != http.StatusOK {
		_ = s.Close()
		return nil, p.refuses(s, v)
	}
	return s, nil
}

// stream is a connection to a host after the heads of a request and its answer. It ends with
// its context.
type stream struct {
	net.Conn
	host *url.URL
	resp *http.Response // its body is not read
	in   *bufio.Reader
	ctx  context.Context
	stop func() bool
}

// request sends the head of a request to a host and reads that of the answer. net/http
// would end the connection with the answer, and follow redirects. header has whole lines.
func (p *pool) request(ctx context.Context, host *url.URL, method, path string, query url.Values, header string) (*stream, error) {
	conn, err := p.dial(ctx, host)
	if err != nil {
		return nil, unreachable(host, err)
	}
	s := &stream{Conn: conn, host: host, in: bufio.NewReader(conn), ctx: ctx, stop: context.AfterFunc(ctx, func() { _ = conn.Close() })}
	_ = conn.SetDeadline(time.Now().Add(callTimeout)) // an error is one of the write, too
	if _, err = fmt.Fprintf(conn, "%s %s?%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nConnection: close\r\n%s\r\n", method, path, query.Encode(), host.Host, originator, header); err == nil {
		s.resp, err = http.ReadResponse(s.in, &http.Request{Method: method, URL: host}) //nolint:bodyclose // it is the connection itself
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = s.Close()
		return nil, s.failed(err)
	}
	return s, nil
}

// failed returns the error of the connection, or that of the context which has ended it.
func (s *stream) failed(err error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return unreachable(s.host, err)
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.in.Read(b)
	if err != nil && s.ctx.Err() != nil {
		err = s.ctx.Err()
	}
	return n, err
}

func (s *stream) Close() error {
	s.stop()
	return s.Conn.Close()
}

// copy sends size bytes of body.
func (s *stream) copy(size int64, body func() (io.ReadCloser, error), progress func(sent int64)) error {
	r, err := body()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	chunk := make([]byte, 256<<10)
	for sent := int64(0); sent < size; progress(sent) {
		n, err := io.ReadFull(r, chunk[:min(int64(len(chunk)), size-sent)])
		if err != nil {
			return fmt.Errorf("read the disk: %w", err)
		}
		if err = s.SetWriteDeadline(time.Now().Add(stall)); err == nil {
			_, err = s.Write(chunk[:n])
		}
		if err != nil {
			return s.failed(err)
		}
		sent += int64(n)
	}
	return nil
}
