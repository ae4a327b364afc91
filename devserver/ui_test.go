package main

import (
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestUI(t *testing.T) {
	s := start(t, filepath.Join(t.TempDir(), "t.db"))
	c := s.dial(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.UI, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run(host, func(t *testing.T) {
			if _, err := c.ExecuteWorkflow(t.Context(), runOptions(host), held); err != nil {
				t.Fatal(err)
			}
			browser := &http.Client{Timeout: 2 * time.Minute}
			base := "http://" + net.JoinHostPort(host, port)
			page, body, cookies := fetch(t, browser, http.MethodGet, base+"/", nil)
			if page != http.StatusOK || !strings.Contains(body, "<html") {
				t.Errorf("page: %d %.80q", page, body)
			}
			if code, body, _ := fetch(t, browser, http.MethodGet, base+"/api/v1/namespaces/default/workflows/"+host, nil); code != http.StatusOK ||
				!strings.Contains(body, "MorganaApp") {
				t.Errorf("workflow: %d %.80q", code, body)
			}
			// Terminate, as the UI's button does.
			token := http.Header{}
			for _, cookie := range cookies {
				if cookie.Name == "_csrf" && !cookie.Secure { // not every browser sends a secure one over http
					token = http.Header{"Cookie": {"_csrf=" + cookie.Value}, "X-Csrf-Token": {cookie.Value}}
				}
			}
			terminate := base + "/api/v1/namespaces/default/workflows/" + host + "/terminate"
			foreign := http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {"http://example.com"}}
			if code, _, _ := fetch(t, browser, http.MethodPost, terminate, foreign); code != http.StatusForbidden {
				t.Errorf("another site's page may terminate: %d", code)
			}
			if code, body, _ := fetch(t, browser, http.MethodPost, terminate, token); code != http.StatusOK {
				t.Errorf("terminate: %d %s", code, body)
			}
		})
	}
}

func fetch(t *testing.T, c *http.Client, method, url string, header http.Header) (int, string, []*http.Cookie) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res.Cookies()
}
