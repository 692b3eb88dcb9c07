package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/kubelet/internal/runtime"
	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

const (
	contentJSON  = "application/json"
	contentPlain = "text/plain; charset=utf-8"
)

// Page implements KubeletService.
func (s *Service) Page(request *kubeletv1pb.PageRequest, out kubeletv1pb.KubeletService_PageServer) error {
	contentType, text, err := s.Text(out.Context(), request.GetPage())
	if err != nil {
		return err
	}
	for first := true; first || len(text) > 0; first = false {
		n := min(len(text), piece)
		response := &kubeletv1pb.PageResponse{Data: text[:n]}
		if first {
			response.ContentType = contentType
		}
		if err := out.Send(response); err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// Text returns a page and its media type; BadRequest for one that there is not. It knows
// nothing of who asks.
func (s *Service) Text(ctx context.Context, page kubeletv1pb.PageName) (contentType string, text []byte, err error) {
	switch page {
	case kubeletv1pb.PageName_PAGE_NAME_HEALTHZ:
		return contentPlain, []byte("ok"), nil
	case kubeletv1pb.PageName_PAGE_NAME_PODS:
		text, err = json.Marshal(s.podList())
		return contentJSON, text, err
	case kubeletv1pb.PageName_PAGE_NAME_STATS_SUMMARY:
		stats, err := s.Stats(ctx, nil)
		if err != nil {
			return "", nil, err
		}
		text, err = json.Marshal(s.summary(stats))
		return contentJSON, text, err
	case kubeletv1pb.PageName_PAGE_NAME_METRICS:
		counts, err := s.counts(ctx)
		if err != nil {
			return "", nil, err
		}
		return exposition(prometheus.Gatherers{s.process, counts})
	case kubeletv1pb.PageName_PAGE_NAME_METRICS_RESOURCE:
		return exposition(s.resourceMetrics(ctx))
	case kubeletv1pb.PageName_PAGE_NAME_CONFIGZ:
		text, err = json.Marshal(map[string]any{"kubeletconfig": s.cfg.Configuration})
		return contentJSON, text, err
	default:
		return "", nil, apierrors.NewBadRequest(fmt.Sprintf("no page %s", page))
	}
}

func (s *Service) podList() *corev1.PodList {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, pod := range s.cfg.Pods() {
		list.Items = append(list.Items, *pod)
	}
	return list
}

// exposition writes metrics in Prometheus' text format.
func exposition(from prometheus.Gatherer) (contentType string, text []byte, err error) {
	families, err := from.Gather()
	if err != nil {
		return "", nil, fmt.Errorf("gather metrics: %w", err)
	}
	var out bytes.Buffer
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	encoder := expfmt.NewEncoder(&out, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return "", nil, fmt.Errorf("write metrics: %w", err)
		}
	}
	return string(format), out.Bytes(), nil
}

// processMetrics are those of this program.
func processMetrics() prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// counts tell how much runs on the machine now, under the names of Kubernetes' kubelet.
func (s *Service) counts(ctx context.Context) (prometheus.Gatherer, error) {
	sandboxes, err := s.cfg.Runtime.ListSandboxes(ctx, "")
	if err != nil {
		return nil, err
	}
	containers, err := s.cfg.Runtime.ListContainers(ctx, "")
	if err != nil {
		return nil, err
	}
	pods := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_running_pods", Help: "Pods whose sandbox runs."})
	for i := range sandboxes {
		if sandboxes[i].Ready {
			pods.Inc()
		}
	}
	states := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_running_containers", Help: "Containers of each state."}, []string{"container_state"})
	states.WithLabelValues(string(runtime.Running)) // told also when there are none
	for i := range containers {
		states.WithLabelValues(string(containers[i].State)).Inc()
	}
	desired := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_desired_pods", Help: "Pods that the masters want here."})
	desired.Set(float64(len(s.cfg.Pods())))
	name := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_node_name", Help: "The node's name; always 1."}, []string{"node"})
	name.WithLabelValues(s.cfg.NodeName).Set(1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(pods, states, desired, name)
	return registry, nil
}
