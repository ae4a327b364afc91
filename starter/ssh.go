package main

import (
	"os"
	"path/filepath"
)

// sshConfigVariable names the configuration of the worker's ssh: see package remote.
const sshConfigVariable = "MORGANA_SSH_CONFIG"

// sshConfig returns the absolute path of the ssh configuration for our worker, which runs
// in another folder.
func sshConfig() string {
	file := os.Getenv(sshConfigVariable)
	if whole, err := filepath.Abs(file); file != "" && err == nil {
		return whole
	}
	return file
}
