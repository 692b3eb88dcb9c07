package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// judgement is what a job's pod failure policy says about a failed pod.
type judgement struct {
	// action is empty when no rule matches: the failure then counts.
	action batchv1.PodFailurePolicyAction
	// message tells why the whole job fails; set with the action FailJob.
	message string
}

// counts says whether the failure counts towards the limits.
func (j judgement) counts() bool { return j.action != batchv1.PodFailurePolicyActionIgnore }

// judge finds the first rule that matches a failed pod.
func judge(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) judgement {
	if policy == nil {
		return judgement{}
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		why := ""
		if rule.OnExitCodes != nil {
			if c := matchingContainer(pod, rule.OnExitCodes); c != nil {
				why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode)
			}
		} else if condition := matchingCondition(pod, rule.OnPodConditions); condition != "" {
			why = fmt.Sprintf("Pod %s/%s has condition %s", pod.Namespace, pod.Name, condition)
		}
		if why == "" {
			continue
		}
		out := judgement{action: rule.Action}
		if rule.Action == batchv1.PodFailurePolicyActionFailJob {
			out.message = fmt.Sprintf("%s matching %s rule at index %d", why, rule.Action, i)
		}
		return out
	}
	return judgement{}
}

// matchingContainer returns a container that failed with an exit code that the rule means.
func matchingContainer(pod *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			end := list[i].State.Terminated
			if end == nil || end.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != list[i].Name {
				continue
			}
			if slices.Contains(rule.Values, end.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return &list[i]
			}
		}
	}
	return nil
}

func matchingCondition(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) corev1.PodConditionType {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, pattern := range patterns {
			if c.Type == pattern.Type && c.Status == pattern.Status {
				return c.Type
			}
		}
	}
	return ""
}

// succeededBy returns which rule of a success policy is met.
func succeededBy(policy *batchv1.SuccessPolicy, completions int, succeeded indexes) (message string, met bool) {
	if policy == nil || len(succeeded) == 0 {
		return "", false
	}
	for i := range policy.Rules {
		rule := &policy.Rules[i]
		has, need := succeeded.total(), ptr.Deref(rule.SucceededCount, 0)
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, completions)
			if len(wanted) == 0 {
				continue
			}
			has = wanted.shared(succeeded)
			if rule.SucceededCount == nil {
				need = int32(wanted.total())
			}
		} else if rule.SucceededCount == nil {
			continue
		}
		if has >= int(need) {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

// restartsReachLimit says whether pods that are restarted in place have been so too often.
func restartsReachLimit(job *batchv1.Job, pods []*corev1.Pod) bool {
	if job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range list {
				restarts += list[i].RestartCount
			}
		}
	}
	return restarts > 0 && restarts >= backoffLimit(job)
}
