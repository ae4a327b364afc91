// Command lab runs an EC2 on loopback, to try target ec2 without an account. It ends with
// Ctrl-C, and its instances with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/morgana-deploy/morgana/ec2lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "ec2lab-machines-")
	if err != nil {
		return err
	}
	machines := ec2lab.NewMachines(dir)
	defer func() { err = errors.Join(err, machines.Close(), os.RemoveAll(dir)) }()
	lab, err := ec2lab.Start(ec2lab.Options{Hypervisor: machines})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	fmt.Println("# An EC2 runs until Ctrl-C. Set this where the worker is started:")
	fmt.Println(shellLine(lab.Env()))
	fmt.Println("# subnets", strings.Join(lab.Subnets(), " "), "Elastic IP", lab.ElasticIP(), "target group", lab.TargetGroup())
	<-ctx.Done()
	return nil
}

// shellLine returns the line of a shell that sets the variables. Version 1 of the aws command
// takes an empty AWS_PROFILE as a profile's name, and its region from AWS_DEFAULT_REGION.
func shellLine(env []string) string {
	unset, export := "unset", "export"
	for _, pair := range env {
		switch name, value, _ := strings.Cut(pair, "="); {
		case value == "":
			unset += " " + name
		case name == "AWS_REGION":
			export += " AWS_DEFAULT_REGION=" + value
			fallthrough
		default:
			export += " " + pair
		}
	}
	return unset + "; " + export
}
