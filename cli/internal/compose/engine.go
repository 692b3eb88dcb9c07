// Package compose starts and removes the compose demo: it hands the engine images and
// the Compose file, waits until the cluster is Ready, and gives the user access. What
// runs is in deploy/compose.
package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// Project is the name that Compose gives to everything it makes.
const Project = "kijabi"

// Cluster is the name that the user knows the demo's cluster by.
const Cluster = "compose"

// engine is Docker, by its command line: its settings, contexts and credentials are the
// user's.
type engine struct {
	docker  string
	compose []string
}

// findEngine looks for Docker and Compose, and asks the engine whether it is there.
func findEngine(ctx context.Context) (*engine, error) {
	path, err := exec.LookPath("docker")
	if err != nil {
		return nil, errors.New("docker is not installed: install Docker (apt-get install docker.io), or use `kijabi up`, which needs none")
	}
	e := &engine{docker: path}
	if _, err := e.run(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return nil, fmt.Errorf("the Docker engine does not answer: %w: start it (sudo systemctl start docker), and be root or in the group docker", err)
	}
	return e, nil
}

// findCompose looks for Compose v2, a plugin of docker, and then for v1.
func (e *engine) findCompose(ctx context.Context) error {
	if _, err := e.run(ctx, "compose", "version"); err == nil {
		e.compose = []string{e.docker, "compose"}
		return nil
	}
	path, err := exec.LookPath("docker-compose")
	if err != nil {
		return errors.New("neither `docker compose` nor docker-compose is installed: install one (apt-get install docker-compose-plugin, or docker-compose)")
	}
	e.compose = []string{path}
	return nil
}

// run runs a command of docker and returns what it says.
func (e *engine) run(ctx context.Context, args ...string) (string, error) {
	out, err := e.output(ctx, args...)
	return strings.TrimSpace(string(out)), err
}

// output runs a command of docker and returns its output as it is.
func (e *engine) output(ctx context.Context, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, e.docker, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return nil, errors.New(lastLine(stderr.String(), err.Error()))
	}
	return stdout.Bytes(), nil
}

// lastLine is the line of an output that tells most, or something else if it is empty.
func lastLine(text, other string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return other
}

// container is one of the demo, as the engine sees it.
type container struct {
	name    string
	machine string
	role    string
	state   string // running, exited, restarting, created
	status  string // "Exited (1) 5 seconds ago", "Up 2 minutes (healthy)"
}

// setup says whether the container makes its machine a member and then ends.
func (c container) setup() bool { return c.name == c.machine+"-setup" }

// ok says whether the container is as it should be.
func (c container) ok() bool {
	if c.setup() {
		return c.state == "exited" && strings.HasPrefix(c.status, "Exited (0)")
	}
	return c.state == "running"
}

// rank orders containers that are not as they should be: what failed before what works.
func (c container) rank() int {
	if c.setup() && c.state == "running" {
		return 1
	}
	return 0
}

// byProject selects everything that Compose made for the demo.
const byProject = "label=com.docker.compose.project=" + Project

// containers lists those of the demo.
func (e *engine) containers(ctx context.Context) ([]container, error) {
	out, err := e.run(ctx, "ps", "--all", "--filter", byProject, "--format",
		`{{.Names}}|{{.Label "dev.kijabi.machine"}}|{{.Label "dev.kijabi.role"}}|{{.State}}|{{.Status}}`)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var found []container
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSpace(line), "|")
		const want = 5
		if len(fields) == want && fields[1] != "" {
			found = append(found, container{fields[0], fields[1], fields[2], fields[3], fields[4]})
		}
	}
	return found, nil
}

// started tells when containers were started last.
func (e *engine) started(ctx context.Context, all []container) (map[string]time.Time, error) {
	args := []string{"inspect", "--format", "{{.Name}} {{.State.StartedAt}}"}
	for _, c := range all {
		args = append(args, c.name)
	}
	out, err := e.run(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("inspect containers: %w", err)
	}
	when := map[string]time.Time{}
	for line := range strings.Lines(out) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, fmt.Errorf("start of container %s: %w", name, err)
		}
		when[strings.TrimPrefix(name, "/")] = at
	}
	return when, nil
}

// progressTime begins the lines of a setup.
const progressTime = `^\s*[0-9.]+s\s+(waiting: )?`

// lastWords is the last line that a container has printed.
func (e *engine) lastWords(ctx context.Context, name string) string {
	const most = 300
	out, err := exec.CommandContext(ctx, e.docker, "logs", "--tail", "1", name).CombinedOutput()
	if err != nil {
		return "its output cannot be read"
	}
	line := lastLine(string(out), "it has printed nothing")
	line = strings.TrimPrefix(regexp.MustCompile(progressTime).ReplaceAllString(line, ""), "Error: ")
	if len(line) > most {
		return line[:most] + "…"
	}
	return line
}

// explain says what is wrong with a container, in a line.
func (e *engine) explain(ctx context.Context, c container) string {
	switch {
	case c.setup() && c.state == "running":
		return fmt.Sprintf("%s: %s", c.name, e.lastWords(ctx, c.name))
	case c.state == "created":
		return fmt.Sprintf("%s is not started yet", c.name)
	case c.state == "exited" && !c.setup():
		return fmt.Sprintf("%s is stopped (%s): start it with `docker start %s`", c.name, c.status, c.name)
	default:
		return fmt.Sprintf("%s is %s: %s (docker logs %s)", c.name, c.state, e.lastWords(ctx, c.name), c.name)
	}
}
