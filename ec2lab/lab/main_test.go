package main

import "testing"

func TestShellLine(t *testing.T) {
	got := shellLine([]string{"AWS_ACCESS_KEY_ID=AKIA", "AWS_PROFILE=", "AWS_REGION=eu-west-1", "AWS_CA_BUNDLE="})
	if want := "unset AWS_PROFILE AWS_CA_BUNDLE; export AWS_ACCESS_KEY_ID=AKIA AWS_DEFAULT_REGION=eu-west-1 AWS_REGION=eu-west-1"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
