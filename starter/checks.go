package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sys/unix"

	"github.com/morgana-deploy/morgana/config"
	"github.com/morgana-deploy/morgana/step"
	"github.com/morgana-deploy/morgana/store"
)

// kindNeeds runs morgana-worker --doctor, which lists the needs of every kind. If
// that fails, the returned need for morgana-worker says why.
func (c *cli) kindNeeds(ctx context.Context, settings config.Settings) ([]checkup, step.Need) {
	const purpose, what = "every stage", "morgana-worker"
	binary, err := findProgram(what)
	if err != nil {
		return nil, missing(purpose, what, err)
	}
	cmd := exec.CommandContext(ctx, binary, "--doctor", "--state", settings.State, "--store", settings.Store)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		if said := cleanLine(errOut.String()); said != "" {
			err = errors.New(strings.TrimPrefix(said, "error: "))
		}
		return nil, missing(purpose, what, fmt.Errorf("%s: %w", binary, err))
	}
	var known []checkup
	for lines := json.NewDecoder(&out); ; {
		var one checkup
		switch err := lines.Decode(&one); {
		case errors.Is(err, io.EOF):
			return known, step.Need{For: purpose, What: what, Found: binary}
		case err != nil:
			return nil, missing(purpose, what, fmt.Errorf("%s is of another version: %w", binary, err))
		}
		known = append(known, one)
	}
}

// temporalNeed checks that the configured server answers. If none is configured, it
// checks that our own runs or can be started.
func (c *cli) temporalNeed(ctx context.Context, settings config.Settings) step.Need {
	n := step.Need{For: "every stage", What: "Temporal"}
	options, configured, err := config.Temporal(c.flags)
	if err != nil {
		return missing(n.For, n.What, err)
	}
	if !configured {
		own, err := openDev(settings)
		if err != nil {
			return missing(n.For, n.What, err)
		}
		if server, running := own.server(); running {
			n.Found = "our own server, " + server.Address
			return n
		}
		binary, err := findProgram("morgana-devserver")
		if err != nil {
			return missing(n.For, n.What, err)
		}
		n.Found = "our own server; the next deploy starts it: " + binary
		return n
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	options.Logger = silent
	dialed, err := client.DialContext(ctx, options)
	if err != nil {
		return missing(n.For, n.What, config.Unreachable(ctx, options, "correct TEMPORAL_ADDRESS, --address or your profile", err))
	}
	defer dialed.Close()
	to := &connection{Client: dialed, namespace: options.Namespace}
	if _, err := dialed.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: options.Namespace}); err != nil {
		return missing(n.For, n.What, to.refused("use Temporal", err))
	}
	n.Found = fmt.Sprintf("%s, namespace %s", options.HostPort, options.Namespace)
	return n
}

// littleSpace is the free space in bytes below which doctor warns. It holds a kernel, its
// source and its image a few times.
const littleSpace = 1 << 30

// placeNeeds checks the state folder and the store. It makes no folder: for a missing one
// it checks the folder above it.
func placeNeeds(ctx context.Context, settings config.Settings) []step.Need {
	needs := folderNeeds("state folder", settings.State, "set MORGANA_STATE to a folder you can write")
	if u, err := url.Parse(settings.Store); err == nil && u.Scheme == "file" {
		return append(needs, folderNeeds("store", u.Path, "set MORGANA_STORE to a folder you can write")...)
	}
	n := step.Need{For: "artifacts", What: "store", Found: settings.Store}
	s, err := store.Open(ctx, settings.Store)
	if err != nil {
		n = missing(n.For, n.What, err)
	} else {
		_ = s.Close() // nothing was written
	}
	return append(needs, n)
}

func folderNeeds(what, folder, fix string) []step.Need {
	purposes := map[string]string{"state folder": "machines and trees", "store": "artifacts"}
	n := step.Need{For: purposes[what], What: what}
	at := folder
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			n.Why, n.Fix = at+" is not a folder", fix
			return []step.Need{n}
		}
		if err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		n.Why, n.Fix = fmt.Sprintf("%s: %v", at, err), fix
		return []step.Need{n}
	}
	n.Found = folder
	var disk unix.Statfs_t
	if err := unix.Statfs(at, &disk); err != nil {
		return []step.Need{n} // some file systems cannot tell
	}
	free := int64(disk.Bavail) * disk.Bsize
	space := step.Need{For: n.For, What: "free space", Optional: true}
	if words := fmt.Sprintf("%.1f GiB", float64(free)/(1<<30)); free >= littleSpace {
		space.Found = words
	} else {
		space.Why, space.Fix = words+" left at "+at, "free 1 GiB or more"
	}
	return []step.Need{n, space}
}
