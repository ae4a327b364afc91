package ec2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/morgana-deploy/morgana/files"
	"github.com/morgana-deploy/morgana/step"
)

// helperKeys are the two key pairs of a rollout's helpers: that of the host and that of the
// login. They are files on this host, readable by its user alone. A worker on another host
// makes keys of its own, and with them another helper.
type helperKeys struct {
	folder string
	// id tells them from other keys. It depends on the public keys.
	id string
	// login is the public key of the login, hostPublic and hostPrivate are the host's.
	login, hostPublic, hostPrivate string
}

// The files of a folder of keys.
const (
	loginFile  = "login"
	hostFile   = "host"
	publicFile = ".pub"
	sshConfig  = "config"
	knownHosts = "known_hosts"
	// groupBegun has the time of the last CreateSecurityGroup, unless EC2 refused it.
	groupBegun = "group"
)

// newKeys begins the name of a folder whose keys are being made. The rollout's folder and a
// tilde follow.
const newKeys = ".new-"

// knownName is the helper's name in known_hosts, whatever its address is.
const knownName = "helper"

// keysFolder is the folder of the keys of a rollout, whose folder's name is given.
func (t *Target) keysFolder(folder string) string {
	return filepath.Join(t.machines.Root(), "helpers", folder)
}

// openKeys reads the keys of a rollout, and makes them if there are none.
func (t *Target) openKeys(ctx context.Context, folder string) (*helperKeys, error) {
	k := &helperKeys{folder: t.keysFolder(folder)}
	if _, err := os.Stat(k.folder); errors.Is(err, fs.ErrNotExist) {
		if err := k.make(ctx); err != nil {
			return nil, step.During("make keys for the helper", err)
		}
	}
	for name, to := range map[string]*string{loginFile + publicFile: &k.login, hostFile + publicFile: &k.hostPublic, hostFile: &k.hostPrivate} {
		text, err := os.ReadFile(k.file(name))
		if err != nil {
			return nil, step.During("read the helper's keys", err)
		}
		*to = string(text)
	}
	sum := sha256.Sum256([]byte(k.login + k.hostPublic))
	k.id = hex.EncodeToString(sum[:6])
	return k, nil
}

func (k *helperKeys) file(name string) string { return filepath.Join(k.folder, name) }

// make makes the folder with the keys, whole or not at all.
func (k *helperKeys) make(ctx context.Context) (err error) {
	parent := filepath.Dir(k.folder)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	sweepKeys(parent)
	folder, err := os.MkdirTemp(parent, newKeys+filepath.Base(k.folder)+"~") // 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	for _, name := range []string{loginFile, hostFile} {
		//nolint:gosec // the arguments are constant but for the folder
		out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "morgana", "-f", filepath.Join(folder, name)).CombinedOutput()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return noSSH
		case err != nil:
			return fmt.Errorf("ssh-keygen: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	public, err := os.ReadFile(filepath.Join(folder, hostFile+publicFile))
	if err != nil {
		return err
	}
	for name, text := range map[string]string{knownHosts: knownName + " " + string(public), sshConfig: k.config()} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := files.SyncTree(folder); err != nil {
		return err
	}
	err = os.Rename(folder, k.folder)
	if _, there := os.Stat(k.folder); err != nil && there == nil { // another call has made it
		err = os.RemoveAll(folder)
	}
	return err
}

// noSSH says that this host lacks OpenSSH's client.
var noSSH = &step.Error{Kind: step.Unsupported, Field: "backing", Err: errors.New("ssh and ssh-keygen are not installed on the worker's host"), Hint: "apt-get install openssh-client"}

// config is the configuration of ssh. Nothing of the user's is read.
func (k *helperKeys) config() string {
	path := func(name string) string { return `"` + strings.ReplaceAll(k.file(name), "%", "%%") + `"` }
	return "IdentityFile " + path(loginFile) + "\nIdentitiesOnly yes\nIdentityAgent none\n" +
		"UserKnownHostsFile " + path(knownHosts) + "\nGlobalKnownHostsFile none\nHostKeyAlias " + knownName + "\nHostKeyAlgorithms ssh-ed25519\n"
}

// userData gives the helper its host key. cloud-init reads it before sshd starts, and gives the
// login name the public key of the key pair.
func (k *helperKeys) userData() string {
	var private strings.Builder
	for line := range strings.Lines(k.hostPrivate) {
		private.WriteString("    " + line)
	}
	return "#cloud-config\nssh_deletekeys: true\nssh_keys:\n  ed25519_private: |\n" + private.String() + "  ed25519_public: " + k.hostPublic
}

// keysOf returns the folders of the keys that this host has of matching rollouts, also of keys
// that were not made whole.
func (t *Target) keysOf(match func(step.Tags) bool) (folders []string) {
	entries, _ := os.ReadDir(t.keysFolder("")) // after an error there are none; sweepKeys tries again
	for _, e := range entries {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.Name(), newKeys), "~")
		if of, ok := step.ParseFolder(name); ok && match(of) {
			folders = append(folders, t.keysFolder(e.Name()))
		}
	}
	return folders
}

// dropKeys removes the keys that this host has of matching rollouts.
func (t *Target) dropKeys(match func(step.Tags) bool) {
	for _, folder := range t.keysOf(match) {
		_ = os.RemoveAll(folder) // sweepKeys tries again
	}
	sweepKeys(t.keysFolder(""))
	_ = os.Remove(t.keysFolder("")) // unless another rollout has keys
}

// sweepKeys removes the keys that another host's worker could not, and those that were not made
// whole. No helper has them any more.
func sweepKeys(parent string) {
	entries, _ := os.ReadDir(parent) // after an error none is removed
	for _, e := range entries {
		limit := 7 * 24 * time.Hour
		if strings.HasPrefix(e.Name(), newKeys) {
			limit = time.Hour
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > limit {
			_ = os.RemoveAll(filepath.Join(parent, e.Name())) // the next rollout tries again
		}
	}
}
