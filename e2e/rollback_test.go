package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	enums "go.temporal.io/api/enums/v1"
)

// server is a program that is ready after WAIT seconds. Then it answers HTTP on PORT,
// unless that is 0: with status 200, and with 500 BAD seconds later, unless that is 0, or as
// soon as there is a file BAD.
const server = `#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
	int port = atoi(argv[2]), bad = atoi(argv[3]), file = argv[3][0] == '/', on = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_ANY) };
	char *ok = "HTTP/1.0 200 OK\r\n\r\n", *wrong = "HTTP/1.0 500 Bad\r\n\r\n", in[999];
	sleep(atoi(argv[1]));
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (port && (bind(l, (void *)&at, sizeof at) || listen(l, 9))) return perror("bind"), 1;
	time_t began = time(0);
	printf("ready %s\n", argv[4]);
	fflush(stdout);
	for (;;) {
		if (!port) pause();
		int c = accept(l, 0, 0);
		char *say = (file ? !access(argv[3], F_OK) : bad && time(0) - began >= bad) ? wrong : ok;
		read(c, in, sizeof in);
		write(c, say, strlen(say));
		close(c);
	}
}
`

// serving is a project of server with its words WAIT, PORT, BAD and NAME.
func (l *lab) serving(app, args, more string) (folder string) {
	l.t.Helper()
	folder = l.project(fmt.Sprintf("app: %s\ntoolchain: {kind: command, build: [[cc, -o, server, server.c]], kernel: server}\n"+
		"targets:\n  dev: {kind: local, args: [%s], expect: ready, %s}\n", app, args, more))
	l.write(filepath.Join(folder, "server.c"), server)
	return folder
}

// A rollback boots the image of the generation before, and does no more. The worker is
// killed while it boots.
func TestRollback(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	folder := l.serving("back", `"2", "0", "0", one`, "")
	yaml := l.read(filepath.Join(folder, "morgana.yaml"))
	l.deployed(folder)
	refusal{code: 2, line: "back/dev has no earlier generation to go back to", hint: "keep in morgana.yaml"}.matches(t, l.morgana(folder, "rollback"))
	l.write(filepath.Join(folder, "morgana.yaml"), strings.Replace(yaml, `"2", "0", "0", one`, `"0", "0", "0", two`, 1))
	l.deployed(folder)

	c := l.client()
	back := l.begin(folder, "rollback")
	l.started(c, rollout("back", 3), "local.Boot")
	l.kill(l.worker)
	l.startWorker()
	r := l.ends(back, 0)
	if !strings.Contains(r.out, "generation 3, the image of generation 1") || !strings.Contains(r.out, "deployed: machine") || strings.Contains(r.out, "configure") {
		t.Errorf("rollback says\n%s", r.out)
	}
	var did []string
	for _, e := range l.history(c, rollout("back", 3), "").GetEvents() {
		if e.GetEventType() == enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED {
			did = append(did, e.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName())
		}
	}
	if got := strings.Join(did, " "); got != "local.Register local.Boot local.Destroy local.Destroy" {
		t.Errorf("the rollback called %s", got)
	}
	expect := func(name string, images int, status, history string) {
		t.Helper()
		if c := l.morgana(folder, "console"); c.out != "ready "+name+"\n" {
			t.Errorf("console %+v", c)
		}
		if folders, _ := filepath.Glob(l.state("local", "back.*")); len(folders) != images || len(l.programs()) != 1 {
			t.Errorf("registered are %q, want %d; programs %q, want one", folders, images, l.programs())
		}
		if s := l.morgana(folder, "status"); !strings.Contains(s.out, status) {
			t.Errorf("status, want %q:\n%s", status, s.out)
		}
		if h := l.morgana(folder, "history"); !strings.HasSuffix(strings.TrimSpace(h.out), history) {
			t.Errorf("history, want %q:\n%s", history, h.out)
		}
	}
	expect("one", 2, "up, rolled back to 1", "rollback to 1  current")
	refusal{code: 2, line: "back/dev has no generation 9", hint: "morgana history back/dev"}.matches(t, l.morgana(folder, "rollback", "--to", "9"))
	refusal{code: 2, line: "generation 3 of back/dev, which runs, is a rollback to generation 1", hint: "--to 2"}.matches(t, l.morgana(folder, "rollback", "--to", "1"))

	// The deploy of the version that was rolled back rolls it out again.
	l.deployed(folder)
	expect("two", 2, " up ", "deploy         current")
	if h := l.morgana(folder, "history"); !strings.Contains(h.out, "rolled back by 3") {
		t.Errorf("history:\n%s", h.out)
	}
	l.ends(l.begin(folder, "destroy"), 0)
	if left, _ := filepath.Glob(l.state("local", "*")); len(left) > 0 || len(l.programs()) > 0 {
		t.Errorf("left behind: %q, programs %q", left, l.programs())
	}
	if h := l.morgana(folder, "history", "back/dev"); !strings.Contains(h.out, "destroyed") {
		t.Errorf("history after destroy: %+v", h)
	}
	refusal{code: 2, line: "back/dev is not deployed", hint: "morgana status"}.matches(t, l.morgana(folder, "rollback", "back/dev"))
}
