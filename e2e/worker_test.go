package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/morgana-deploy/morgana/need"
)

// /healthz fails when Temporal is away. /metrics is in Prometheus's format.
func TestWorkerTellsHealthAndMetrics(t *testing.T) {
	t.Parallel()
	l := newServerLab(t)
	address := fmt.Sprintf("127.0.0.1:%d", need.Port(t))
	l.kill(l.worker)
	l.worker = l.start("morgana-worker", "--listen", address)

	get := func(path string) (status int, body string) {
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer func() { _ = answer.Body.Close() }()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			return 0, err.Error()
		}
		return answer.StatusCode, string(text)
	}
	l.eventually("the worker is healthy", func() bool {
		status, _ := get("/healthz")
		return status == http.StatusOK
	})
	l.eventually("the worker's pollers are counted", func() bool {
		_, text := get("/metrics")
		return strings.Contains(text, "\ntemporal_num_pollers{") && strings.Contains(text, `task_queue="qemu"`) &&
			strings.Contains(text, "\ngo_goroutines ")
	})
	l.kill(l.server)
	l.eventually("the worker says that Temporal is gone", func() bool {
		status, _ := get("/healthz")
		return status == http.StatusServiceUnavailable
	})
}
