package fencecheck

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Line is what this package wants of an audit event.
type Line struct {
	AuditID    string `json:"auditID"`
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	Verb       string `json:"verb"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource  string `json:"resource"`
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	Annotations map[string]string `json:"annotations"`

	// Master in whose log it is.
	Master string `json:"-"`
}

// epoch under which a component of the leader wrote, 0 for none.
func (l Line) epoch() uint64 {
	epoch, _ := strconv.ParseUint(l.Annotations["kijabi.dev/epoch"], 10, 64) // absent: 0
	return epoch
}

// ReadAudit reads the audit logs of a master. A line that was cut short when its master was
// killed is left out, with the one that was written behind it.
func ReadAudit(master string, files []string) ([]Line, error) {
	var lines []Line
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		scanner := bufio.NewScanner(bytes.NewReader(content))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			line := Line{Master: master}
			if err := json.Unmarshal(scanner.Bytes(), &line); err == nil {
				lines = append(lines, line)
			}
		}
		if err := scanner.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return lines, nil
}

// components are those that write only while their master leads, and under its epoch.
var components = []string{"system:kube-scheduler", "system:kube-controller-manager", "system:cloud-controller-manager"}

// ComponentEpochs checks each write of a leader's component: it names the epoch under which the
// component was started, and the batch that committed it is of that epoch. It counts the writes
// that were checked, and those that the apiserver refused for their epoch.
func ComponentEpochs(ledger Ledger, lines []Line) (checked, refused int, violations []string) {
	type batch struct {
		epoch    uint64
		revision int64
	}
	committed := map[string]batch{}
	for _, r := range ledger {
		for _, c := range r.Changes {
			if c.RequestID != "" {
				committed[c.RequestID] = batch{r.Epoch, r.Number}
			}
		}
	}
	for _, line := range lines {
		if !slices.Contains(components, line.User.Username) {
			continue
		}
		if line.epoch() != 0 && line.ResponseStatus.Code == http.StatusPreconditionFailed {
			refused++
		}
		b, wrote := committed[line.AuditID]
		if !wrote {
			continue
		}
		checked++
		if line.epoch() != b.epoch {
			violations = append(violations, fmt.Sprintf("%s of %s, started under epoch %d, was committed in revision %d of epoch %d (request %s at %s)",
				line.Verb, line.User.Username, line.epoch(), b.revision, b.epoch, line.AuditID, line.Master))
		}
	}
	return checked, refused, violations
}

// AuditedOnce checks that the requests, by id, are in the logs once. A request through a
// master that was killed may be missing, if it ended shortly before; may says so.
func AuditedOnce(lines []Line, requests map[string]string, may func(id, master string) bool) (violations []string) {
	count := map[string]int{}
	for _, line := range lines {
		if line.Stage == "ResponseComplete" {
			count[line.AuditID]++
		}
	}
	for id, master := range requests {
		switch n := count[id]; {
		case n > 1:
			violations = append(violations, fmt.Sprintf("request %s is in the audit logs %d times", id, n))
		case n == 0 && !may(id, master):
			violations = append(violations, fmt.Sprintf("request %s through %s is not in the audit logs", id, master))
		}
	}
	return violations
}

// Evicted lists the pods of a namespace that were deleted or evicted, by whomever (I10).
func Evicted(lines []Line, namespace string) (violations []string) {
	for _, line := range lines {
		deletes := line.ObjectRef.Resource == "pods" && line.ObjectRef.Namespace == namespace &&
			(line.Verb == "delete" || line.Verb == "deletecollection" || line.Verb == "create" && strings.HasSuffix(line.RequestURI, "/eviction")) ||
			strings.Contains(line.Annotations["kijabi.dev/operations"], "delete pods "+namespace+"/")
		if deletes && line.ResponseStatus.Code < 300 {
			violations = append(violations, fmt.Sprintf("pod deleted: %s %s/%s %s by %s at %s", line.Verb, line.ObjectRef.Namespace,
				line.ObjectRef.Name, line.Annotations["kijabi.dev/operations"], line.User.Username, line.Master))
		}
	}
	return violations
}

// Leaked lists the files that hold a secret in clear (I15).
func Leaked(files []string, secret string) (violations []string, err error) {
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(content, []byte(secret)) {
			violations = append(violations, "a secret's value is in "+name)
		}
	}
	return violations, nil
}
