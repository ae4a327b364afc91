package ec2

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/morgana-deploy/morgana/step"
)

// The last look is at the end of the time, not before the last pause.
func TestPollUsesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		done, err := poll(t.Context(), 12*time.Second, func() (bool, error) { return time.Since(began) >= 12*time.Second, nil })
		if took := time.Since(began); !done || err != nil || took != 12*time.Second {
			t.Errorf("got %v, %v after %s", done, err, took)
		}
	})
}

// A connection lives on while a long answer is read, however soon the answer came.
func TestSoonAnswers(t *testing.T) {
	environ(t)
	answer := `<DescribeInstancesResponse><reservationSet>` + strings.Repeat(`<item><reservationId>r-1</reservationId></item>`, 300) +
		`</reservationSet></DescribeInstancesResponse>`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			_, _ = io.WriteString(w, answer)
		}
	}))
	defer server.Close()
	c, err := open(t.Context(), settings{Options: Options{Endpoint: server.URL, Region: "eu-west-1"}})
	no(t, err)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if _, err := c.instances(t.Context(), step.Tags{App: "hello", Target: "prod"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
