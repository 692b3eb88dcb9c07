package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kubeletv1pb "kijabi.dev/proto/gen/kijabi/kubelet/v1"
)

// summary is the part of stats/v1alpha1's Summary that the runtime tells of. A pod's figures
// are the sums of its containers'.
type summary struct {
	Node nodeFigures  `json:"node"`
	Pods []podFigures `json:"pods"`
}

type nodeFigures struct {
	NodeName  string        `json:"nodeName"`
	StartTime metav1.Time   `json:"startTime"`
	CPU       cpuFigures    `json:"cpu"`
	Memory    memoryFigures `json:"memory"`
}

type podFigures struct {
	PodRef     podReference       `json:"podRef"`
	StartTime  metav1.Time        `json:"startTime"`
	Containers []containerFigures `json:"containers"`
	CPU        cpuFigures         `json:"cpu"`
	Memory     memoryFigures      `json:"memory"`
}

type podReference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	UID       string `json:"uid"`
}

type containerFigures struct {
	Name      string        `json:"name"`
	StartTime metav1.Time   `json:"startTime"`
	CPU       cpuFigures    `json:"cpu"`
	Memory    memoryFigures `json:"memory"`
}

type cpuFigures struct {
	Time                 metav1.Time `json:"time"`
	UsageCoreNanoSeconds uint64      `json:"usageCoreNanoSeconds"`
}

type memoryFigures struct {
	Time            metav1.Time `json:"time"`
	WorkingSetBytes uint64      `json:"workingSetBytes"`
}

func figuresOf(use *kubeletv1pb.ResourceUse) (cpuFigures, memoryFigures) {
	at := metav1.NewTime(use.GetTime().AsTime())
	return cpuFigures{at, use.GetCpuNanoseconds()}, memoryFigures{at, use.GetMemoryBytes()}
}

func (s *Service) summary(stats *kubeletv1pb.StatsResponse) *summary {
	out := &summary{Node: nodeFigures{NodeName: s.cfg.NodeName, StartTime: metav1.NewTime(s.cfg.BootTime)}, Pods: []podFigures{}}
	out.Node.CPU, out.Node.Memory = figuresOf(stats.GetNode())
	known := map[string]*corev1.Pod{}
	for _, pod := range s.cfg.Pods() {
		known[string(pod.UID)] = pod
	}
	for _, of := range stats.GetPods() {
		pod := podFigures{PodRef: podReference{of.GetName(), of.GetNamespace(), of.GetUid()}}
		object := known[of.GetUid()]
		if object != nil && object.Status.StartTime != nil {
			pod.StartTime = *object.Status.StartTime
		}
		for _, c := range of.GetContainers() {
			container := containerFigures{Name: c.GetName(), StartTime: startOf(object, c.GetName())}
			container.CPU, container.Memory = figuresOf(c.GetUse())
			pod.Containers = append(pod.Containers, container)
			pod.CPU.UsageCoreNanoSeconds += container.CPU.UsageCoreNanoSeconds
			pod.Memory.WorkingSetBytes += container.Memory.WorkingSetBytes
			if pod.CPU.Time.Before(&container.CPU.Time) {
				pod.CPU.Time, pod.Memory.Time = container.CPU.Time, container.CPU.Time
			}
		}
		out.Pods = append(out.Pods, pod)
	}
	return out
}

// startOf is when a container of a pod started, as the pod's status says; zero if it does not.
func startOf(pod *corev1.Pod, container string) metav1.Time {
	if pod == nil {
		return metav1.Time{}
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == container && list[i].State.Running != nil {
				return list[i].State.Running.StartedAt
			}
		}
	}
	return metav1.Time{}
}

// resourceMetrics are the figures as metrics, under the names of Kubernetes' kubelet. A
// failure of the runtime is a metric, too, so that the page can be scraped then.
func (s *Service) resourceMetrics(ctx context.Context) prometheus.Gatherer {
	metrics := &figures{}
	stats, err := s.Stats(ctx, nil)
	if err != nil {
		s.cfg.Log.Warn("figures of containers", zap.Error(err))
		metrics.add("resource_scrape_error", "1 if there was an error while getting the figures, 0 otherwise.", prometheus.GaugeValue, 1, time.Time{})
	} else {
		metrics.add("resource_scrape_error", "1 if there was an error while getting the figures, 0 otherwise.", prometheus.GaugeValue, 0, time.Time{})
		metrics.summary(s.summary(stats))
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)
	return registry
}

// figures are metrics with the times they were read at.
type figures []prometheus.Metric

var _ prometheus.Collector = (*figures)(nil)

// Describe describes nothing: which metrics there are depends on what runs.
func (f *figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f *figures) Collect(out chan<- prometheus.Metric) {
	for _, metric := range *f {
		out <- metric
	}
}

// add adds a metric. labels are names and values in turn; a zero time is not told.
func (f *figures) add(name, help string, kind prometheus.ValueType, value float64, at time.Time, labels ...string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	metric := prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	if !at.IsZero() {
		metric = prometheus.NewMetricWithTimestamp(at, metric)
	}
	*f = append(*f, metric)
}

// use adds the pair of metrics about processor and memory.
func (f *figures) use(of string, cpu cpuFigures, memory memoryFigures, labels ...string) {
	f.add(of+"_cpu_usage_seconds_total", "Processor time that the "+of+" has used, in core-seconds.", prometheus.CounterValue,
		float64(cpu.UsageCoreNanoSeconds)/float64(time.Second), cpu.Time.Time, labels...)
	f.add(of+"_memory_working_set_bytes", "Working set of the "+of+" in bytes.", prometheus.GaugeValue,
		float64(memory.WorkingSetBytes), memory.Time.Time, labels...)
}

func (f *figures) summary(all *summary) {
	f.use("node", all.Node.CPU, all.Node.Memory)
	seen := map[podReference]bool{} // a pod that ends may have the name of one that begins
	for i := range all.Pods {
		pod := &all.Pods[i]
		name := podReference{Name: pod.PodRef.Name, Namespace: pod.PodRef.Namespace}
		if seen[name] {
			continue
		}
		seen[name] = true
		labels := []string{"pod", pod.PodRef.Name, "namespace", pod.PodRef.Namespace}
		f.use("pod", pod.CPU, pod.Memory, labels...)
		for _, container := range pod.Containers {
			own := append([]string{"container", container.Name}, labels...)
			f.use("container", container.CPU, container.Memory, own...)
			if !container.StartTime.IsZero() {
				f.add("container_start_time_seconds", "When the container started, in seconds since 1970.", prometheus.GaugeValue,
					float64(container.StartTime.UnixNano())/float64(time.Second), time.Time{}, own...)
			}
		}
	}
}
