package command

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"kijabi.dev/cli/internal/output"
)

func printStatus(out io.Writer, s *Status) error {
	leader := s.Leader
	if leader == "" {
		leader = "NONE"
	}
	snapshots := "-"
	if s.ClusterID != "" {
		snapshots = s.Snapshots.text(time.Now())
	}
	_, _ = fmt.Fprintf(out, "cluster   %s %s\nleader    %s (epoch %d)%s\nvoters    %s%s\n%setcd      leader %s, revision %d, %s\nsnapshot  %s\n\n",
		s.Cluster, s.ClusterID, leader, s.Epoch, lastChangeText(s.LastLeaderChanges), strings.Join(s.Voters, ", "), toleranceText(s.FailuresTolerated),
		vipText(s.VirtualAddresses),
		dash(s.Etcd.Leader), s.Etcd.Revision, s.Etcd.text(), snapshots)
	for _, warning := range s.Warnings {
		_, _ = fmt.Fprintf(out, "WARNING   %s\n", warning)
	}
	if len(s.Warnings) > 0 {
		_, _ = fmt.Fprintln(out)
	}
	var rows [][]string
	for _, m := range s.Masters {
		rows = append(rows, m.row(time.Now()))
	}
	if err := output.Table(out, []string{"MASTER", "ADDRESS", "ROLE", "LAG", "DISK", "CERTIFICATE", "STATE"}, rows); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out)
	rows = nil
	for _, n := range s.Nodes {
		state := "Ready"
		if !n.Ready {
			state = n.Reason
		}
		rows = append(rows, []string{n.Name, n.Address, n.PodCIDR, state, componentText(s.Components, n.Name)})
	}
	if err := output.Table(out, []string{"NODE", "ADDRESS", "PODS", "STATE", "PROGRAMS"}, rows); err != nil {
		return err
	}
	return printChanges(out, s.LastLeaderChanges)
}

// row is a master's line of the table.
func (m MasterStatus) row(now time.Time) []string {
	role, state := m.Role, "alive"
	if m.Leader {
		role += ", leads"
	}
	lag, disk, certificate := strconv.FormatInt(m.Lag, 10), "-", "-"
	if !m.Alive {
		state, lag = "unreachable: "+m.Reason, "-"
	} else {
		if m.DiskSeconds > 0 {
			disk = fmt.Sprintf("%.1f ms", m.DiskSeconds*1000)
		}
		if m.CertificateEnd != nil {
			certificate = leftText(m.CertificateEnd.Sub(now))
		}
	}
	return []string{m.Name, m.Address, role, lag, disk, certificate, state}
}

// leftText is how long a certificate still lives.
func leftText(left time.Duration) string {
	if left <= 0 {
		return "ENDED"
	}
	return fmt.Sprintf("%dh%02dm left", int(left.Hours()), int(left.Minutes())%60)
}

// lastChangeText is since when the leader leads, and why.
func lastChangeText(changes []LeaderChange) string {
	if len(changes) == 0 {
		return ""
	}
	last := changes[len(changes)-1]
	text := ", since " + last.Time.Local().Format(time.DateTime)
	if last.From != "" {
		text += ", before it " + last.From
	}
	return text
}

func toleranceText(tolerated *int32) string {
	switch {
	case tolerated == nil:
		return ""
	case *tolerated < 0:
		return " (the quorum is lost)"
	case *tolerated == 0:
		return " (no more may fail)"
	default:
		return fmt.Sprintf(" (%d more may fail)", *tolerated)
	}
}

// printChanges lists the changes of leadership, if there were any.
func printChanges(out io.Writer, changes []LeaderChange) error {
	var rows [][]string
	for _, c := range slices.Backward(changes) {
		rows = append(rows, []string{c.Time.Local().Format(time.DateTime), dash(c.From), c.To, dash(c.Reason)})
	}
	if len(rows) == 0 {
		return nil
	}
	_, _ = fmt.Fprintln(out)
	return output.Table(out, []string{"LED SINCE", "BEFORE", "LEADER", "REASON"}, rows)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// componentText is "9 healthy" or names those that are not.
func componentText(all []ComponentStatus, machine string) string {
	healthy := 0
	var sick []string
	reasons := map[string]bool{}
	for _, c := range all {
		switch {
		case c.Machine != machine:
		case c.Healthy:
			healthy++
		default:
			sick = append(sick, c.Component+": "+c.Reason)
			reasons[c.Reason] = true
		}
	}
	if healthy == 0 && len(sick) > 1 && len(reasons) == 1 {
		for reason := range reasons {
			return "none: " + reason
		}
	}
	return strings.Join(append([]string{fmt.Sprintf("%d healthy", healthy)}, sick...), ", ")
}

// vipText is the line about virtual addresses.
func vipText(all []VirtualAddress) string {
	if len(all) == 0 {
		return ""
	}
	var texts []string
	for _, one := range all {
		if one.Holder == "" {
			texts = append(texts, one.Address+" held by NOBODY")
		} else {
			texts = append(texts, one.Address+" held by "+one.Holder)
		}
	}
	return "vip       " + strings.Join(texts, ", ") + "\n"
}
