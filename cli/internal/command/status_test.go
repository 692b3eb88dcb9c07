package command

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/access"
)

func TestStatusShowsMasters(t *testing.T) {
	at := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	from := &mastersv1pb.StatusResponse{
		Warnings:  []string{"the disk of m4 has no more than its reserve free"},
		ClusterId: "c1", Leader: "m2", Epoch: 77, LeaderChanges: 2,
		VirtualAddresses: []string{"10.0.0.10", "fd00::10"},
		Quorum:           &mastersv1pb.Quorum{Voters: 3, Living: 2, Needed: 2, Tolerated: 0},
		LastLeaderChanges: []*mastersv1pb.LeaderChange{
			{Time: timestamppb.New(at), To: "m1", Reason: "first seen after the start"},
			{Time: timestamppb.New(at.Add(time.Hour)), From: "m1", To: "m2", Reason: "handed over: disk"},
		},
		Members: []*mastersv1pb.Member{
			{Name: "m1", GrpcAddress: "10.0.0.1:6444", Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER, Alive: true, AppliedRevision: 90, DiskLatency: durationpb.New(1234 * time.Microsecond)},
			{Name: "m2", GrpcAddress: "10.0.0.2:6444", Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER, Alive: true, AppliedRevision: 100, VirtualAddresses: []string{"10.0.0.10"}, CertificateNotAfter: timestamppb.New(time.Now().Add(-time.Minute))},
			{Name: "m3", GrpcAddress: "10.0.0.3:6444", Role: mastersv1pb.MemberRole_MEMBER_ROLE_VOTER, Alive: true, AppliedRevision: 80, DatabaseBytes: 3 << 20, DatabaseInUseBytes: 2 << 20, DatabaseLimitBytes: 1 << 30},
			{Name: "m4", GrpcAddress: "10.0.0.4:6444", Role: mastersv1pb.MemberRole_MEMBER_ROLE_SPARE, Alive: true, AppliedRevision: 101},
		},
	}
	s := &Status{Cluster: "test"}
	s.fill(from, []answer{{master: access.Master{Name: "m3"}, err: errors.New("dial: connection refused")}})
	var out bytes.Buffer
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for _, want := range [][]string{
		{"leader", "m2 (epoch 77), since 2026-05-04 13:00:00, before it m1"},
		{"voters", "m1, m2, m3 (no more may fail)"},
		{"vip", "10.0.0.10 held by m2, fd00::10 held by NOBODY"},
		{"etcd", "3.0 MiB, 2.0 of at most 1024 MiB in use"},
		{"WARNING", "the disk of m4"},
		{"m1", "10.0.0.1", "voter", "10", "1.2 ms", "-", "alive"},
		{"m2", "10.0.0.2", "voter, leads", "0", "ENDED", "alive"},
		{"m3", "10.0.0.3", "voter", "unreachable: connection refused"},
		{"m4", "10.0.0.4", "spare", "0", "alive"},
		{"2026-05-04 13:00:00", "m1", "m2", "handed over: disk"},
	} {
		found := false
		for _, line := range lines {
			rest, ok := line, strings.HasPrefix(line, want[0])
			for _, part := range want {
				_, after, has := strings.Cut(rest, part)
				rest, ok = after, ok && has
			}
			found = found || ok
		}
		if !found {
			t.Errorf("no line with %q in that order:\n%s", want, out.String())
		}
	}
	if s.FailuresTolerated == nil || *s.FailuresTolerated != 0 || len(s.LastLeaderChanges) != 2 {
		t.Errorf("JSON: %+v", s)
	}
}
