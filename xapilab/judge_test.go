package xapilab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/morgana-deploy/morgana/need"
)

// exchange is a call to a real xapi and its answer.
type exchange struct {
	Req, Resp string
	Status    int
}

func transcript(t *testing.T) (all []exchange) {
	t.Helper()
	file, err := os.Open(filepath.Join(need.XenAPI(t), "transcript.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // only read
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e exchange
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// The judge has nothing against a real xapi.
func TestJudgeKnowsXapi(t *testing.T) {
	j := theJudge(t)
	for i, e := range transcript(t) {
		for _, said := range j.Exchange([]byte(e.Req), []byte(e.Resp)) {
			t.Errorf("line %d: %s", i+1, said)
		}
	}
}

// anything is the hypervisor of a lab whose VDIs have no bytes.
type anything struct{}

func (anything) Start(context.Context, Guest) (Running, error) { return &standIn{}, nil }

// The lab answers the calls of the transcript as the real xapi did: with the same codes and
// values of the same shape.
func TestTranscript(t *testing.T) {
	j := theJudge(t)
	l := start(t, Config{Judge: j, Hypervisor: anything{}})
	if err := replay(t, l, transcript(t)); err != nil {
		t.Error(err)
	}
	for _, said := range l.Judged() {
		t.Error(said)
	}
}

// simulated are the calls of the transcript that only a xapi without a hypervisor and storage
// carries out: the start of VMs with nothing to boot, and of one while an import writes its disk.
var simulated = []int{87, 89, 102, 112}

func replay(t *testing.T, l *Lab, all []exchange) error {
	client := l.client(t)
	var put io.Closer
	ours := map[string]string{} // references by those of the transcript
	for i, e := range all {
		_, want, err := readCall(strings.NewReader(e.Resp))
		if err != nil {
			return err
		}
		request := e.Req
		for theirs, our := range ours {
			request = strings.ReplaceAll(request, theirs, our)
		}
		if slices.Contains(simulated, i+1) {
			continue
		}
		switch {
		case strings.Contains(e.Resp, "<value>destroy</value>"): // an import began, which is no call
			put = beginImport(t, l, request, "")
		case strings.Contains(e.Resp, "VDI_IO_ERROR"): // and was broken
			_ = put.Close() // it is there to break
		}
		var differ string
		for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) { // a task may take longer
			_, got, err := readCall(bytes.NewReader(post(t, client, l.URL, request)))
			if err != nil {
				return err
			}
			if differ = compare(want[0], got[0], "", ours); differ == "" || !strings.Contains(e.Req, "task.get_record") || time.Now().After(end) {
				break
			}
		}
		if differ != "" {
			method, _, _ := readCall(strings.NewReader(e.Req))
			t.Errorf("line %d: %s: %s", i+1, method, differ)
		}
	}
	return nil
}

func post(t *testing.T, client *http.Client, url, body string) []byte {
	t.Helper()
	answer, err := client.Post(url, "text/xml", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	out, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, err)
	}
	return out
}

// compare says how a value differs from the real one.
func compare(want, got any, where string, ours map[string]string) string {
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			return where + " is no struct"
		}
		for name, v := range want {
			if strings.HasSuffix(where, ".Value.other_config") || strings.HasSuffix(where, ".current_operations") || where == ".Value" && strings.HasPrefix(name, "xen") {
				continue // keys that depend on the machine
			}
			g, ok := got[name]
			if !ok {
				return where + "." + name + " is missing"
			}
			if differ := compare(v, g, where+"."+name, ours); differ != "" {
				return differ
			}
		}
	case []any:
		got, ok := got.([]any)
		if !ok {
			return where + " is no array"
		}
		for i := range min(len(want), len(got)) {
			if differ := compare(want[i], got[i], where, ours); differ != "" {
				return differ
			}
		}
		if where == ".ErrorDescription" && len(want) != len(got) {
			return fmt.Sprintf("error %v, not %v", got, want)
		}
	case string:
		text, ok := got.(string)
		if !ok {
			return fmt.Sprintf("%s is a %T", where, got)
		}
		if strings.HasPrefix(want, "OpaqueRef:") && want != null && text != null {
			if known, ok := ours[want]; ok && known != text {
				return fmt.Sprintf("%s is %s, not %s", where, text, known)
			}
			ours[want] = text
			return ""
		}
		if want == "pending" {
			return "" // a task is not so long here
		}
		fixed := where == ".Status" || where == ".ErrorDescription" || strings.HasSuffix(where, ".status") || where == ".Value" && !strings.Contains(want, "-")
		if fixed && text != want {
			return fmt.Sprintf("%s is %q, not %q", where, text, want)
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
			return fmt.Sprintf("%s is a %T, not a %T", where, got, want)
		}
	}
	return ""
}

// beginImport begins the import of the VDI of a request, with a task, or with the last one that was made.
func beginImport(t *testing.T, l *Lab, request, task string) io.Closer {
	t.Helper()
	_, params, err := readCall(strings.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	if task == "" {
		l.locked(func() { tasks := l.all("task"); task = tasks[len(tasks)-1].ref })
	}
	query := url.Values{"session_id": {params[0].(string)}, "vdi": {params[1].(string)}, "task_id": {task}}
	body, w := io.Pipe()
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, l.URL+"/import_raw_vdi?"+query.Encode(), body)
	if err != nil {
		t.Fatal(err)
	}
	put.ContentLength = 4 << 20
	answer, err := l.client(t).Do(put) //nolint:bodyclose // both closes it
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer, err)
	}
	busy := false // the VDI is soon after the answer
	for end := time.Now().Add(2 * time.Minute); !busy && time.Now().Before(end); time.Sleep(time.Millisecond) {
		l.locked(func() { busy = l.inUse(l.objects[params[1].(string)]) })
	}
	_, _ = w.Write(make([]byte, 1<<20)) // the lab tells if it is cut
	return both{w, answer.Body}
}

type both [2]io.Closer

func (b both) Close() error { return errors.Join(b[0].Close(), b[1].Close()) }
