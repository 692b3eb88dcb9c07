package app

import (
	"context"
	"net"
	"strconv"

	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	controllermanagerv1pb "kijabi.dev/proto/gen/kijabi/controllermanager/v1"

	"kijabi.dev/apiserver/internal/rest"
)

// pagesOf are the metrics of this machine's other programs. They are asked for so rarely that
// a connection is made each time: one that is kept costs pings.
func pagesOf(cfg *configv1.APIServerConfiguration, id *pki.Identity) map[string]rest.Page {
	address := net.JoinHostPort(cfg.AdvertiseAddress, strconv.Itoa(configv1.PortControllerManager))
	return map[string]rest.Page{
		"controller-manager": func(ctx context.Context) (string, []byte, error) {
			conn, err := rpc.DialName(address, pki.ServerName(pki.ComponentControllerManager, cfg.NodeName), id)
			if err != nil {
				return "", nil, err
			}
			defer func() { _ = conn.Close() }()
			answer, err := controllermanagerv1pb.NewControllerManagerServiceClient(conn).Metrics(ctx, &controllermanagerv1pb.MetricsRequest{})
			return answer.GetContentType(), answer.GetText(), err
		},
	}
}
