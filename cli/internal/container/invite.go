package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kijabi.dev/platform/atomicfile"
	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"

	"kijabi.dev/cli/internal/access"
)

const (
	// tokenLife bounds a token that nobody uses.
	tokenLife = 2 * time.Hour
	// tokenRefresh is the age at which tokens are made anew when the demo is started
	// again.
	tokenRefresh = time.Hour
	// tokensEach is how many attempts a setup has; each takes a token of its own.
	tokensEach = 4
)

// Invite makes tokens for each of these machines that is no member yet. The machine
// itself must be a master.
func (m *Machine) Invite(ctx context.Context, masters, nodes []string) error {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	var waiting int
	err := m.Progress.Wait(ctx, m.Name+": the masters answer", func(ctx context.Context) error {
		admin, err := access.Load(m.Layout.AdminDir())
		if err != nil {
			return err
		}
		conn, _, err := admin.Connect(ctx)
		if err != nil {
			return fmt.Errorf("%w (%s)", err, m.services().LogHint("apiserver"))
		}
		defer func() { _ = conn.Close() }()
		tokens := certificatev1pb.NewCertificateServiceClient(conn)
		waiting = 0
		for role, names := range map[certificatev1pb.TokenRole][]string{
			certificatev1pb.TokenRole_TOKEN_ROLE_MASTER: masters,
			certificatev1pb.TokenRole_TOKEN_ROLE_NODE:   nodes,
		} {
			for _, name := range names {
				made, err := m.invite(ctx, client.New(conn), tokens, role, name)
				if err != nil {
					return fmt.Errorf("invite %s: %w", name, err)
				}
				if made {
					waiting++
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	m.Progress.Say("%s: %d invitations written", m.Name, waiting)
	return nil
}

// invite makes tokens for one machine, unless it is a member or has some.
func (m *Machine) invite(ctx context.Context, api *client.Client, tokens certificatev1pb.CertificateServiceClient,
	role certificatev1pb.TokenRole, name string,
) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, missing := os.Stat(m.tokens(name))
	if missing == nil && info.Size() > 0 && time.Since(info.ModTime()) < tokenRefresh {
		return false, nil
	}
	_, err := client.Get[*corev1.Node](ctx, api, object.Key{Name: name})
	if err == nil && errors.Is(missing, os.ErrNotExist) {
		return false, nil // it has joined and removed what was left
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	var content strings.Builder
	for range tokensEach {
		answer, err := tokens.CreateToken(ctx, &certificatev1pb.CreateTokenRequest{Role: role, Uses: 1, Ttl: durationpb.New(tokenLife)})
		if err != nil {
			return false, err
		}
		content.WriteString(answer.GetToken() + "\n")
	}
	return true, atomicfile.Write(m.tokens(name), []byte(content.String()), 0o600)
}
