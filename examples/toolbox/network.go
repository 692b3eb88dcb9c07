package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// request is what get was asked to do.
type request struct {
	url, post, expect string
	count             int
	every, timeout    time.Duration
	fresh, quiet      bool
	ca, bearer        string
}

func parseGet(args []string) (request, error) {
	var r request
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	flags.IntVar(&r.count, "count", 1, "how many requests; 0 goes on until SIGTERM")
	flags.DurationVar(&r.every, "every", 0, "time from the start of one request to the next")
	flags.DurationVar(&r.timeout, "timeout", 5*time.Second, "limit of each request")
	flags.StringVar(&r.expect, "expect", "", "text the answer must hold")
	flags.StringVar(&r.post, "post", "", "send this JSON by POST instead")
	flags.BoolVar(&r.fresh, "fresh", false, "use a new connection for each request")
	flags.StringVar(&r.ca, "ca", "", "file with the CA certificates that an https server must be known by")
	flags.StringVar(&r.bearer, "bearer", "", "file with a token to send along, such as a service account's")
	flags.BoolVar(&r.quiet, "quiet", false, "do not print the answers")
	if err := flags.Parse(args); err != nil {
		return r, err
	}
	if flags.NArg() != 1 {
		return r, flag.ErrHelp
	}
	r.url = flags.Arg(0)
	if !strings.Contains(r.url, "://") {
		r.url = "http://" + r.url
	}
	return r, nil
}

// get fails if a request fails, is answered by an error status, or lacks the
// expected text; each such request is told on a line of its own.
func get(ctx context.Context, args []string, out io.Writer) error {
	r, err := parseGet(args)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: r.fresh}
	if r.ca != "" {
		if transport.TLSClientConfig, err = trusting(r.ca); err != nil {
			return err
		}
	}
	client := &http.Client{Timeout: r.timeout, Transport: transport}
	sent, failed := 0, 0
	for ctx.Err() == nil && (r.count == 0 || sent < r.count) {
		started := time.Now()
		body, err := r.send(ctx, client)
		if err != nil && ctx.Err() != nil {
			break // told to end, not failed
		}
		sent++
		if err != nil {
			failed++
			if _, err := fmt.Fprintf(out, "%s failed: %v\n", started.UTC().Format(time.RFC3339Nano), err); err != nil {
				return err
			}
		} else if !r.quiet {
			if _, err := out.Write(body); err != nil {
				return err
			}
		}
		if r.every > 0 && sent != r.count {
			_ = pause(ctx, time.Until(started.Add(r.every))) // never fails
		}
	}
	if r.count != 1 {
		if _, err := fmt.Fprintf(out, "%d requests, %d failed\n", sent, failed); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, sent)
	}
	return nil
}

// trusting returns a TLS configuration that trusts the CAs in a file alone.
func trusting(file string) (*tls.Config, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

func (r request) send(ctx context.Context, client *http.Client) ([]byte, error) {
	method := http.MethodGet
	if r.post != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url, strings.NewReader(r.post))
	if err != nil {
		return nil, err
	}
	if r.post != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.bearer != "" { // read for each request: it is replaced from time to time
		token, err := os.ReadFile(r.bearer)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode >= http.StatusBadRequest:
		return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	case !strings.Contains(string(body), r.expect):
		return nil, fmt.Errorf("the answer lacks %q: %s", r.expect, strings.TrimSpace(string(body)))
	}
	return body, nil
}

func nslookup(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("nslookup", flag.ContinueOnError)
	server := flags.String("server", "", "DNS server, ADDRESS or ADDRESS:PORT; default that of resolv.conf")
	kind := flags.String("type", "IP", "IP, A, AAAA, CNAME, SRV, TXT or PTR")
	timeout := flags.Duration("timeout", 5*time.Second, "limit of the whole look-up")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return flag.ErrHelp
	}
	resolver := &net.Resolver{PreferGo: true}
	if *server != "" {
		address := *server
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(address, "53")
		}
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	lines, err := resolve(ctx, resolver, strings.ToUpper(*kind), flags.Arg(0))
	var failure *net.DNSError
	if errors.As(err, &failure) && *server != "" {
		failure.Server = *server // else the error names the server of resolv.conf
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}

func resolve(ctx context.Context, resolver *net.Resolver, kind, name string) ([]string, error) {
	switch networks := map[string]string{"IP": "ip", "A": "ip4", "AAAA": "ip6"}; kind {
	case "IP", "A", "AAAA":
		addresses, err := resolver.LookupNetIP(ctx, networks[kind], name)
		var lines []string
		for _, address := range addresses {
			lines = append(lines, address.Unmap().String())
		}
		slices.Sort(lines)
		return lines, err
	case "CNAME":
		canonical, err := resolver.LookupCNAME(ctx, name)
		return []string{canonical}, err
	case "TXT":
		return resolver.LookupTXT(ctx, name)
	case "PTR":
		return resolver.LookupAddr(ctx, name)
	case "SRV":
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		var lines []string
		for _, record := range records {
			lines = append(lines, fmt.Sprintf("%d %d %d %s", record.Priority, record.Weight, record.Port, record.Target))
		}
		slices.Sort(lines)
		return lines, err
	default:
		return nil, fmt.Errorf("type %q: want IP, A, AAAA, CNAME, SRV, TXT or PTR", kind)
	}
}

func tcpEcho(ctx context.Context, args []string, out io.Writer) error {
	if err := count(args, 0, 1); err != nil {
		return err
	}
	address := ":7"
	if len(args) == 1 {
		address = args[0]
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	if _, err := fmt.Fprintln(out, "listening on", listener.Addr()); err != nil {
		return err
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		clients.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			_, _ = io.Copy(conn, conn) // a client may leave as it likes
			_ = conn.Close()
		})
	}
}

func tcpSend(ctx context.Context, args []string, out io.Writer) error {
	if err := count(args, 2, 2); err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, args[1]); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, line)
	return err
}
