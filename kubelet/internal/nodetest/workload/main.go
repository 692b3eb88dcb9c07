// Command workload is what the tests' containers run.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "serve": // answers on :8080, and to itself on 127.0.0.1:8081; /file?path tells whether a file exists
		serve()
	case "sleep":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
	case "stubborn": // ignores SIGTERM
		signal.Ignore(syscall.SIGTERM)
		if _, err := new(net.ListenConfig).Listen(context.Background(), "tcp", ":8080"); err != nil { // now it may be told to end
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		time.Sleep(time.Hour)
	case "print":
		fmt.Println(strings.Join(args, " "))
	case "cat":
		for _, path := range args {
			data, err := os.ReadFile(path)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			_, _ = os.Stdout.Write(data)
		}
	case "write": // write PATH TEXT
		if err := os.WriteFile(args[0], []byte(args[1]), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "link": // link TARGET PATH
		if err := os.Symlink(args[0], args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "env":
		for _, line := range os.Environ() {
			fmt.Println(line)
		}
	case "exit": // exit CODE MESSAGE
		if len(args) > 1 {
			fmt.Println(args[1])
			_ = os.WriteFile("/dev/termination-log", []byte(args[1]), 0o644)
		}
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "eat": // fills memory until the kernel objects
		var hold [][]byte
		for {
			block := make([]byte, 1<<20)
			for i := range block {
				block[i] = 1
			}
			hold = append(hold, block)
			_ = hold
		}
	case "copy": // standard input to output
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "id":
		groups, _ := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	default:
		os.Exit(64)
	}
}

func serve() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	name, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, name) })
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(r.URL.Query().Get("path")); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: time.Second}
	go func() {
		<-ctx.Done()
		fmt.Println("bye")
		_ = server.Close()
	}()
	private := &http.Server{Addr: "127.0.0.1:8081", ReadHeaderTimeout: time.Second}
	go func() { _ = private.ListenAndServe() }()
	fmt.Println("serving")
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
