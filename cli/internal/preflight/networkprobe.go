package preflight

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	configv1 "kijabi.dev/platform/config/v1"

	"kijabi.dev/cli/internal/packetfilter"
)

// localNetwork is the network namespace of this process.
type localNetwork struct{}

var _ Network = localNetwork{}

func (localNetwork) Bind(address string, port int) error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return listener.Close()
}

// ourRoutes is the protocol that the network agent marks its routes with.
const ourRoutes = 75

func (localNetwork) Routes() ([]Route, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network interfaces: %w", err)
	}
	devices := map[int]string{}
	for _, link := range links {
		devices[link.Attrs().Index] = link.Attrs().Name
	}
	listed, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	var routes []Route
	for _, route := range listed {
		if route.Dst == nil {
			continue
		}
		to, ok := netip.AddrFromSlice(route.Dst.IP)
		if !ok {
			continue
		}
		bits, _ := route.Dst.Mask.Size()
		device := devices[route.LinkIndex]
		routes = append(routes, Route{
			To: netip.PrefixFrom(to.Unmap(), bits), Device: device,
			Ours: route.Protocol == ourRoutes || strings.HasPrefix(device, "kijabi"),
		})
	}
	return routes, nil
}

func (localNetwork) Chains() ([]Chain, error) {
	listed, err := packetfilter.Chains()
	if err != nil {
		return nil, err
	}
	var chains []Chain
	for _, chain := range listed {
		v4 := chain.Family == "ip" || chain.Family == "inet"
		chains = append(chains, Chain{Table: chain.Table, Name: chain.Name, DropsForwarded: v4 && chain.Forward && chain.Drop})
	}
	return chains, nil
}

func (localNetwork) Resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, err
}

const masterTimeout = 3 * time.Second

// anybody accepts every certificate: who the master is, the token's pin proves later.
// No secret is sent.
func anybody(protocol string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, NextProtos: []string{protocol}} //nolint:gosec // see above
}

func (localNetwork) Greet(ctx context.Context, door string) (Greeting, error) {
	ctx, cancel := context.WithTimeout(ctx, masterTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: anybody("h2")}).DialContext(ctx, "tcp", door)
	if err != nil {
		return Greeting{}, err
	}
	defer func() { _ = conn.Close() }()
	secured, ok := conn.(*tls.Conn)
	if !ok || len(secured.ConnectionState().PeerCertificates) == 0 {
		return Greeting{}, errors.New("it shows no certificate")
	}
	shown := secured.ConnectionState().PeerCertificates[0]
	return Greeting{Names: shown.DNSNames, NotBefore: shown.NotBefore, NotAfter: shown.NotAfter}, nil
}

func (localNetwork) Time(ctx context.Context, door string) (MasterTime, error) {
	ctx, cancel := context.WithTimeout(ctx, masterTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(door)
	if err != nil {
		return MasterTime{}, err
	}
	url := "https://" + net.JoinHostPort(host, strconv.Itoa(configv1.PortREST)) + "/livez"
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return MasterTime{}, err
	}
	var told MasterTime
	// What counts is the trip of the request, not that of connecting.
	request = request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { told.Asked = time.Now() },
	}))
	transport := &http.Transport{TLSClientConfig: anybody("http/1.1"), DisableKeepAlives: true}
	answer, err := transport.RoundTrip(request)
	told.Answered = time.Now()
	if err != nil {
		return MasterTime{}, err
	}
	_ = answer.Body.Close()
	if told.Date, err = http.ParseTime(answer.Header.Get("Date")); err != nil {
		return MasterTime{}, fmt.Errorf("%s tells no time: %w", url, err)
	}
	return told, nil
}
