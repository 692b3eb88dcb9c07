package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
)

// healthTimeout bounds the whole check, connecting included.
const healthTimeout = 3 * time.Second

// reportHealth prints one line and returns the exit code of --health.
func reportHealth(ctx context.Context, name string, cfg any, out io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	common, err := commonOf(cfg)
	if err == nil {
		err = checkHealth(ctx, common)
	}
	if err != nil {
		_, _ = fmt.Fprintf(out, "%s: %v\n", name, err)
		return ExitFailure
	}
	_, _ = fmt.Fprintf(out, "%s: serving at %s\n", name, common.ListenAddress)
	return ExitOK
}

// commonOf finds the part that every configuration embeds.
func commonOf(cfg any) (configv1.Common, error) {
	value := reflect.Indirect(reflect.ValueOf(cfg))
	if value.Kind() == reflect.Struct {
		if field := value.FieldByName("Common"); field.IsValid() {
			if common, ok := field.Interface().(configv1.Common); ok {
				return common, nil
			}
		}
	}
	return configv1.Common{}, errors.New("the configuration names no service to ask")
}

// checkHealth asks the program at the configured address, which must hold the configured
// certificate: another program on the same port is not healthy in its place.
func checkHealth(ctx context.Context, common configv1.Common) error {
	id, err := pki.OpenIdentity(common.Identity)
	if err != nil {
		return err
	}
	serverName := ""
	for _, name := range id.Leaf().DNSNames {
		if strings.HasSuffix(name, pki.ServerName("", common.NodeName)) {
			serverName = name
		}
	}
	if serverName == "" {
		return fmt.Errorf("certificate %s does not name machine %s", common.Identity.CertFile, common.NodeName)
	}
	conn, err := grpc.NewClient("passthrough:///"+common.ListenAddress, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(id.ClientTLS(serverName))))
	if err != nil {
		return fmt.Errorf("dial %s: %w", common.ListenAddress, err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return fmt.Errorf("no answer from %s: %s", common.ListenAddress, status.Convert(err).Message())
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%s says %s", common.ListenAddress, strings.ToLower(answer.GetStatus().String()))
	}
	return nil
}
