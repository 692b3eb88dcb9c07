package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	configv1 "kijabi.dev/platform/config/v1"
)

// measureVIP reads through the virtual address all the time, each time by a new connection, and
// ends leaderships, ten times each way: it kills the leader's apiserver, whose machine still has
// the address and answers for it, or the whole machine, or has leadership handed over.
func measureVIP(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, 3, 0, func(c *cluster) error {
		for _, way := range []struct {
			what string
			kill func(ctx context.Context, leader string) error
			back func(ctx context.Context, leader string) error
		}{
			{"leader's apiserver killed (SIGKILL)", c.killAPIServer, func(context.Context, string) error { return nil }}, // its supervisor starts it
			{"leader's machine killed", c.machine("kill"), c.machine("start")},
			{"leadership transferred", c.transfer, func(context.Context, string) error { return nil }},
		} {
			var gaps []time.Duration
			for range kills {
				leader, err := c.awaitWhole(ctx)
				if err != nil {
					return err
				}
				gap, err := c.gapAt(ctx, func() error { return way.kill(ctx, leader) })
				if err != nil {
					return err
				}
				gaps = append(gaps, gap)
				if err := way.back(ctx, leader); err != nil {
					return err
				}
			}
			if _, err := c.awaitWhole(ctx); err != nil {
				return err
			}
			c.table.add(row{
				what:   fmt.Sprintf("%s → next answer through the virtual address, %d times, p50 / max", way.what, kills),
				figure: milliseconds(quantile(gaps, 0.5)) + " / " + milliseconds(quantile(gaps, 1)), goal: "≤ 1 s",
			})
		}
		return nil
	}, "--vip", virtual)
}

func (c *cluster) machine(verb string) func(ctx context.Context, name string) error {
	return func(ctx context.Context, name string) error {
		_, err := c.kijabi(ctx, "machine", verb, "--name", clusterName, name)
		return err
	}
}

func (c *cluster) transfer(ctx context.Context, _ string) error {
	_, err := c.kijabi(ctx, "leader", "transfer")
	return err
}

func (c *cluster) killAPIServer(_ context.Context, machine string) error {
	all, err := c.processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.machine == machine && p.name == "apiserver" {
			return syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	return errors.New("no apiserver runs on " + machine)
}

// gapAt returns the longest time without an answer around the kill.
func (c *cluster) gapAt(ctx context.Context, kill func() error) (time.Duration, error) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	answers := make(chan time.Time, 100000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for reading.Err() == nil {
			if c.readVIP(reading) == nil {
				answers <- time.Now()
			}
			if err := pause(reading, time.Millisecond); err != nil {
				return
			}
		}
	}()
	if err := pause(ctx, 500*time.Millisecond); err != nil {
		return 0, err
	}
	killed := time.Now()
	if err := kill(); err != nil {
		return 0, err
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return 0, err
	}
	stop()
	<-done
	close(answers)
	var last time.Time
	var gap time.Duration
	for at := range answers {
		if !last.IsZero() && at.After(killed) {
			gap = max(gap, at.Sub(last))
		}
		last = at
	}
	if last.Before(killed) {
		return 0, errors.New("nothing was answered through the virtual address within 5 s of the kill")
	}
	return gap, nil
}

// readVIP reads an object as a new client does. A master proves that its answer is current.
func (c *cluster) readVIP(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	url := "https://" + net.JoinHostPort(virtual, strconv.Itoa(configv1.PortREST)) + "/api/v1/namespaces/default"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Who is asked for a connection when nobody is there hears nothing: the next attempt may.
	dialer := &net.Dialer{Timeout: 100 * time.Millisecond}
	tls := c.identity.ClientTLS(virtual)
	tls.NextProtos = []string{"http/1.1"}
	transport := &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true, DialContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}
