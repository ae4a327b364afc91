// Command web is a Linux program in the place of a unikernel: it answers HTTP on port 80,
// and ends with the status that is the path.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func main() {
	fmt.Printf("arguments: %q\n", os.Args[1:])
	end := make(chan int)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello from a Linux program")
		if status, err := strconv.Atoi(strings.Trim(r.URL.Path, "/")); err == nil {
			end <- status
		}
	})
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() { fmt.Println(http.Serve(l, nil)) }()
	fmt.Println("listening")
	os.Exit(<-end)
}
