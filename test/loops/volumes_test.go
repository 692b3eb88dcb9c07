package loops

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/kube/client"
	"kijabi.dev/platform/kube/object"
	"kijabi.dev/test/harness"
)

// TestVolumes runs what binds, makes and protects volumes, with the scheduler, on hollow
// nodes: nothing is mounted.
func TestVolumes(tt *testing.T) {
	t := harness.Begin(tt)
	s := newStack(t, "controller-manager", "scheduler")
	k := newKubelets(t, s)
	for _, name := range []string{"va", "vb"} {
		if err := s.register(t.Context(), hollowNode(name, "4")); err != nil {
			t.Fatal(err)
		}
		k.beat(t, name)
		k.well(t, name)
	}
	t.Run("DefaultClass", func(t *harness.T) { testDefaultClass(t, s) })
	t.Run("Made", func(t *harness.T) { testMade(t, s) })
	t.Run("Static", func(t *harness.T) { testStatic(t, s) })
	t.Run("StaticForFirstPod", func(t *harness.T) { testStaticForFirstPod(t, s) })
	t.Run("Refused", func(t *harness.T) { testRefused(t, s) })
	t.Run("Ephemeral", func(t *harness.T) { testEphemeral(t, s) })
	t.Run("Many", func(t *harness.T) { testMany(t, s) })
	t.Run("Attached", func(t *harness.T) { testAttached(t, s) })
}

func claimOf(ns, name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
}

func volumeOf(name, size, class string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
	}
}

// podWith is a pod that uses claims.
func podWith(ns, name string, claims ...string) *corev1.Pod {
	p := pod(ns, name, "10m")
	for _, claim := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
	return p
}

// claimPhase waits for a claim's phase and returns it.
func claimPhase(t *harness.T, s *stack, ns, name string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	t.Helper()
	var claim *corev1.PersistentVolumeClaim
	harness.Eventually(t, patience, fmt.Sprintf("claim %s is %s", name, phase), func() error {
		var err error
		claim, err = get[*corev1.PersistentVolumeClaim](s, ns, name)
		if err == nil && claim.Status.Phase != phase {
			err = fmt.Errorf("phase %s, volume %q, annotations %v", claim.Status.Phase, claim.Spec.VolumeName, claim.Annotations)
		}
		return err
	})
	return claim
}

func volumePhase(t *harness.T, s *stack, name string, phase corev1.PersistentVolumePhase) *corev1.PersistentVolume {
	t.Helper()
	var v *corev1.PersistentVolume
	harness.Eventually(t, patience, fmt.Sprintf("volume %s is %s", name, phase), func() error {
		var err error
		v, err = get[*corev1.PersistentVolume](s, "", name)
		if err == nil && v.Status.Phase != phase {
			err = fmt.Errorf("phase %s, reference %v", v.Status.Phase, v.Spec.ClaimRef)
		}
		return err
	})
	return v
}

// eventsTold waits until an event about an object has a reason and says something.
func eventsTold(t *harness.T, s *stack, about object.Object, reason, says string) {
	t.Helper()
	ns := about.GetNamespace()
	if ns == "" {
		ns = "default"
	}
	harness.Eventually(t, patience, fmt.Sprintf("event %s of %s", reason, about.GetName()), func() error {
		var said []string
		for _, e := range list[*corev1.Event](t, s, ns) {
			if e.InvolvedObject.UID != about.GetUID() {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Message, says) {
				return nil
			}
			said = append(said, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("it says %q", said)
	})
}

func endPods(t *harness.T, s *stack, ns string, names ...string) {
	t.Helper()
	now := int64(0)
	for _, name := range names {
		s.remove(t, pod(ns, name, "10m"), client.DeleteOptions{GracePeriodSeconds: &now})
	}
}

func testDefaultClass(t *harness.T, s *stack) {
	var class *storagev1.StorageClass
	harness.Eventually(t, patience, "the cluster has its class", func() error {
		var err error
		class, err = get[*storagev1.StorageClass](s, "", "local-path")
		return err
	})
	if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" || class.Provisioner != "kijabi.dev/local-path" ||
		*class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer || *class.ReclaimPolicy != corev1.PersistentVolumeReclaimDelete || !*class.AllowVolumeExpansion {
		t.Errorf("class %+v", class)
	}

	// A claim that was made while there was no default gets it later. The class, once deleted,
	// is not made anew: the bootstrap has looked by the time the events are there.
	ns := namespace(t, s, "late-class")
	s.remove(t, class, client.DeleteOptions{})
	early := create(t, s, claimOf(ns, "early", "1Gi"))
	eventsTold(t, s, early, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	if again, err := get[*storagev1.StorageClass](s, "", "local-path"); !apierrors.IsNotFound(err) {
		t.Errorf("a class that was deleted: %v, %v", again, err)
	}
	class.ResourceVersion, class.UID = "", ""
	create(t, s, class)
	harness.Eventually(t, patience, "the claim gets the class", func() error {
		claim, err := get[*corev1.PersistentVolumeClaim](s, ns, "early")
		if err == nil && (claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName != "local-path") {
			err = errors.New("it has none")
		}
		return err
	})
	eventsTold(t, s, early, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
}

func testMade(t *harness.T, s *stack) {
	ns := namespace(t, s, "made")
	create(t, s, claimOf(ns, "data", "1Gi"))
	for _, v := range list[*corev1.PersistentVolume](t, s, "") {
		t.Errorf("volume %s before any pod", v.Name)
	}
	create(t, s, podWith(ns, "web", "data"))
	claim := claimPhase(t, s, ns, "data", corev1.ClaimBound)
	harness.Eventually(t, patience, "the pod is bound", bound(s, ns, "web", ""))
	web, err := get[*corev1.Pod](s, ns, "web")
	if err != nil {
		t.Fatal(err)
	}
	v := volumePhase(t, s, "pvc-"+string(claim.UID), corev1.VolumeBound)
	term := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0]
	if claim.Spec.VolumeName != v.Name || v.Spec.ClaimRef.UID != claim.UID || v.Spec.Local.Path != "/var/lib/kijabi/volumes/"+v.Name ||
		term.Key != "kubernetes.io/hostname" || !slices.Equal(term.Values, []string{web.Spec.NodeName}) ||
		v.Annotations["pv.kubernetes.io/provisioned-by"] != "kijabi.dev/local-path" || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		t.Errorf("pod on %s, volume %+v", web.Spec.NodeName, v)
	}
	eventsTold(t, s, claim, "ProvisioningSucceeded", "Successfully provisioned volume "+v.Name)

	t.Run("Follows", func(t *harness.T) {
		// Another pod of the claim goes where the volume is.
		create(t, s, podWith(ns, "second", "data"))
		harness.Eventually(t, patience, "it goes where the volume is", bound(s, ns, "second", web.Spec.NodeName))
		endPods(t, s, ns, "second")
	})
	t.Run("Grows", func(t *harness.T) {
		change(t, s, ns, "data", "", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
		})
		harness.Eventually(t, patience, "claim and volume have grown", func() error {
			c, err := get[*corev1.PersistentVolumeClaim](s, ns, "data")
			if err != nil {
				return err
			}
			v, err := get[*corev1.PersistentVolume](s, "", c.Spec.VolumeName)
			if err != nil {
				return err
			}
			has, is := c.Status.Capacity[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
			if has.String() != "3Gi" || is.String() != "3Gi" {
				return fmt.Errorf("claim has %s, volume %s", has.String(), is.String())
			}
			return nil
		})
		c, err := get[*corev1.PersistentVolumeClaim](s, ns, "data")
		if err != nil {
			t.Fatal(err)
		}
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
		ctx, cancel := contextOf(t)
		defer cancel()
		if _, err := s.api.Update(ctx, c); !apierrors.IsInvalid(err) {
			t.Errorf("shrinking: %v", err)
		}
	})
	t.Run("Protected", func(t *harness.T) {
		s.remove(t, claim, client.DeleteOptions{})
		s.remove(t, v, client.DeleteOptions{})
		late := create(t, s, podWith(ns, "late", "data"))
		harness.Eventually(t, patience, "no pod starts with it", unschedulable(t, s, late, `0/2 nodes are available: persistentvolumeclaim "data" is being deleted.`))
		if _, err := get[*corev1.PersistentVolumeClaim](s, ns, "data"); err != nil {
			t.Fatalf("a claim that a pod uses: %v", err)
		}
		if _, err := get[*corev1.PersistentVolume](s, "", v.Name); err != nil {
			t.Fatalf("a bound volume: %v", err)
		}
		endPods(t, s, ns, "web")
		harness.Eventually(t, patience, "the claim goes after its pod", gone[*corev1.PersistentVolumeClaim](s, ns, "data"))
		harness.Eventually(t, patience, "the volume goes after its claim", gone[*corev1.PersistentVolume](s, "", v.Name))
		endPods(t, s, ns, "late")
	})
}

func testStatic(t *harness.T, s *stack) {
	ns := namespace(t, s, "static")
	for name, size := range map[string]string{"static-large": "9Gi", "static-fit": "6Gi", "static-small": "1Gi"} {
		create(t, s, volumeOf(name, size, "by-hand"))
	}
	volumePhase(t, s, "static-fit", corev1.VolumeAvailable)
	volumePhase(t, s, "static-large", corev1.VolumeAvailable)
	claim := claimOf(ns, "data", "5Gi")
	claim.Spec.StorageClassName = new("by-hand")
	create(t, s, claim)
	claim = claimPhase(t, s, ns, "data", corev1.ClaimBound)
	has := claim.Status.Capacity[corev1.ResourceStorage]
	if claim.Spec.VolumeName != "static-fit" || has.String() != "6Gi" || claim.Annotations["pv.kubernetes.io/bind-completed"] != "yes" || claim.Annotations["pv.kubernetes.io/bound-by-controller"] != "yes" {
		t.Errorf("claim %+v", claim)
	}
	volumePhase(t, s, "static-fit", corev1.VolumeBound)
	create(t, s, podWith(ns, "web", "data"))
	harness.Eventually(t, patience, "a pod of a bound claim is bound", bound(s, ns, "web", ""))
	endPods(t, s, ns, "web")
	s.remove(t, claim, client.DeleteOptions{})
	harness.Eventually(t, patience, "the claim goes", gone[*corev1.PersistentVolumeClaim](s, ns, "data"))
	v := volumePhase(t, s, "static-fit", corev1.VolumeReleased)

	// A namesake gets another volume; the released one is kept until a person frees it.
	again := claimOf(ns, "data", "5Gi")
	again.Spec.StorageClassName = new("by-hand")
	create(t, s, again)
	if again = claimPhase(t, s, ns, "data", corev1.ClaimBound); again.Spec.VolumeName != "static-large" {
		t.Errorf("the namesake got %s", again.Spec.VolumeName)
	}
	change(t, s, "", v.Name, "", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil })
	volumePhase(t, s, "static-fit", corev1.VolumeAvailable)

	// A person reserves a volume for a claim, and one claim names a volume.
	reserved := volumeOf("static-reserved", "2Gi", "by-hand")
	reserved.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "mine"}
	create(t, s, reserved)
	mine := claimOf(ns, "mine", "1Gi")
	mine.Spec.StorageClassName = new("by-hand")
	create(t, s, mine)
	if mine = claimPhase(t, s, ns, "mine", corev1.ClaimBound); mine.Spec.VolumeName != "static-reserved" {
		t.Errorf("the claim got %s", mine.Spec.VolumeName)
	}
	naming := claimOf(ns, "naming", "1Gi")
	naming.Spec.StorageClassName, naming.Spec.VolumeName = new("by-hand"), "static-fit"
	create(t, s, naming)
	claimPhase(t, s, ns, "naming", corev1.ClaimBound)
	taken := claimOf(ns, "taken", "1Gi")
	taken.Spec.StorageClassName, taken.Spec.VolumeName = new("by-hand"), "static-fit"
	eventsTold(t, s, create(t, s, taken), "FailedBinding", `volume "static-fit" already bound to a different claim.`)
}

func testStaticForFirstPod(t *harness.T, s *stack) {
	ns := namespace(t, s, "first-pod")
	create(t, s, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "disks"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	})
	claim := claimOf(ns, "data", "1Gi")
	claim.Spec.StorageClassName = new("disks")
	create(t, s, claim)
	web := create(t, s, podWith(ns, "web", "data"))
	harness.Eventually(t, patience, "the pod waits for a disk", unschedulable(t, s, web, "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."))
	disk := volumeOf("disk-b", "1Gi", "disks")
	disk.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/disk"}}
	disk.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: []string{"vb"}}},
	}}}}
	create(t, s, disk)
	harness.Eventually(t, patience, "it goes to the disk", bound(s, ns, "web", "vb"))
	if claim = claimPhase(t, s, ns, "data", corev1.ClaimBound); claim.Spec.VolumeName != "disk-b" {
		t.Errorf("the claim got %s", claim.Spec.VolumeName)
	}
}

func testRefused(t *harness.T, s *stack) {
	ns := namespace(t, s, "refused")
	block := claimOf(ns, "block", "1Gi")
	block.Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	block = create(t, s, block)
	create(t, s, podWith(ns, "block", "block"))
	eventsTold(t, s, block, "ProvisioningFailed", "volumeMode Block is not supported")
	// A node that is gone is selected no longer, whoever selected it.
	lost := claimOf(ns, "lost", "1Gi")
	lost.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "gone"}
	lost = create(t, s, lost)
	create(t, s, podWith(ns, "lost", "lost"))
	eventsTold(t, s, lost, "ProvisioningFailed", `node "gone" not found`)
	harness.Eventually(t, patience, "another node is selected", bound(s, ns, "lost", ""))

	missing := create(t, s, podWith(ns, "missing", "nothing"))
	harness.Eventually(t, patience, "a pod of a claim that is not there waits", unschedulable(t, s, missing, `0/2 nodes are available: persistentvolumeclaim "nothing" not found.`))
	create(t, s, claimOf(ns, "nothing", "1Gi"))
	harness.Eventually(t, patience, "until it is there", bound(s, ns, "missing", ""))

	create(t, s, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "outside"}, Provisioner: "outside.example.com"})
	outside := claimOf(ns, "outside", "1Gi")
	outside.Spec.StorageClassName = new("outside")
	outside = create(t, s, outside)
	eventsTold(t, s, outside, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner 'outside.example.com'")
	waits := create(t, s, podWith(ns, "waits", "outside"))
	harness.Eventually(t, patience, "a pod waits for the provisioner", unschedulable(t, s, waits, "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."))
	if claim, err := get[*corev1.PersistentVolumeClaim](s, ns, "outside"); err != nil || claim.Annotations["volume.kubernetes.io/storage-provisioner"] != "outside.example.com" {
		t.Errorf("claim %v, %v", claim, err)
	}
	// What a provisioner outside does.
	v := volumeOf("outside-1", "1Gi", "outside")
	v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": "outside.example.com"}
	v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: "outside", UID: outside.UID}
	create(t, s, v)
	claimPhase(t, s, ns, "outside", corev1.ClaimBound)
	harness.Eventually(t, patience, "the pod is bound", bound(s, ns, "waits", ""))

	once := claimOf(ns, "once", "1Gi")
	once.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	create(t, s, once)
	create(t, s, podWith(ns, "only", "once"))
	harness.Eventually(t, patience, "one pod has it", bound(s, ns, "only", ""))
	other := create(t, s, podWith(ns, "other", "once"))
	harness.Eventually(t, patience, "no other gets it", unschedulable(t, s, other,
		"0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."))
	endPods(t, s, ns, "only")
	harness.Eventually(t, patience, "until the first is gone", bound(s, ns, "other", ""))
}

func testEphemeral(t *harness.T, s *stack) {
	ns := namespace(t, s, "ephemeral")
	with := func(name string) *corev1.Pod {
		p := pod(ns, name, "10m")
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{
			Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claimOf(ns, "", "1Gi").Spec}},
		}}}
		return p
	}
	worker := create(t, s, with("worker"))
	harness.Eventually(t, patience, "the pod is bound", bound(s, ns, "worker", ""))
	claim := claimPhase(t, s, ns, "worker-scratch", corev1.ClaimBound)
	if owner := metav1.GetControllerOf(claim); owner == nil || owner.UID != worker.UID {
		t.Errorf("owner %v", owner)
	}
	endPods(t, s, ns, "worker")
	harness.Eventually(t, patience, "the claim goes with the pod", gone[*corev1.PersistentVolumeClaim](s, ns, "worker-scratch"))
	harness.Eventually(t, patience, "and the volume", gone[*corev1.PersistentVolume](s, "", claim.Spec.VolumeName))

	foreign := create(t, s, claimOf(ns, "blocked-scratch", "1Gi"))
	blocked := create(t, s, with("blocked"))
	eventsTold(t, s, blocked, "FailedBinding", "ephemeral volume scratch: PVC ephemeral/blocked-scratch was not created for pod ephemeral/blocked (pod is not owner)")
	s.remove(t, foreign, client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the pod is bound once the name is free", bound(s, ns, "blocked", ""))
}

// testMany makes many claims and pods at once while both programs are killed.
func testMany(t *harness.T, s *stack) {
	ns := namespace(t, s, "many")
	const n = 30
	for i := range n {
		create(t, s, claimOf(ns, fmt.Sprint("data-", i), "1Gi"))
		create(t, s, podWith(ns, fmt.Sprint("db-", i), fmt.Sprint("data-", i)))
		if i%10 == 5 {
			s.restart(t, "controller-manager")
			s.restart(t, "scheduler")
		}
	}
	for i := range n {
		harness.Eventually(t, 2*patience, "every pod is bound", bound(s, ns, fmt.Sprint("db-", i), ""))
	}
	users := map[string]string{}
	for _, claim := range list[*corev1.PersistentVolumeClaim](t, s, ns) {
		v, err := get[*corev1.PersistentVolume](s, "", claim.Spec.VolumeName)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := users[v.Name]; taken || v.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("claims %s and %s, volume %s refers to %s", claim.Name, other, v.Name, v.Spec.ClaimRef.Name)
		}
		users[v.Name] = claim.Name
		p, err := get[*corev1.Pod](s, ns, strings.Replace(claim.Name, "data-", "db-", 1))
		if err != nil {
			t.Fatal(err)
		}
		if where := v.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]; where != p.Spec.NodeName {
			t.Errorf("pod %s is on %s, its volume on %s", p.Name, p.Spec.NodeName, where)
		}
	}
	for _, v := range list[*corev1.PersistentVolume](t, s, "") {
		if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == ns && users[v.Name] == "" {
			t.Errorf("volume %s is nobody's", v.Name)
		}
	}
	// A namespace takes all of it along.
	s.remove(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.DeleteOptions{})
	harness.Eventually(t, 2*patience, "the namespace goes", gone[*corev1.Namespace](s, "", ns))
	harness.Eventually(t, patience, "and its volumes", func() error {
		for _, v := range list[*corev1.PersistentVolume](t, s, "") {
			if users[v.Name] != "" {
				return fmt.Errorf("volume %s is %s", v.Name, v.Status.Phase)
			}
		}
		return nil
	})
}

// testAttached plays a driver's attacher.
func testAttached(t *harness.T, s *stack) {
	ns := namespace(t, s, "attached")
	v := volumeOf("csi-1", "1Gi", "by-driver")
	v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: "handle-1"}}
	create(t, s, v)
	claim := claimOf(ns, "data", "1Gi")
	claim.Spec.StorageClassName, claim.Spec.VolumeName = new("by-driver"), "csi-1"
	create(t, s, claim)
	claimPhase(t, s, ns, "data", corev1.ClaimBound)
	on := func(name, node string) *corev1.Pod {
		p := podWith(ns, name, "data")
		p.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": node}
		return create(t, s, p)
	}
	attachments := func(node string) []*storagev1.VolumeAttachment {
		return slices.DeleteFunc(list[*storagev1.VolumeAttachment](t, s, ""), func(a *storagev1.VolumeAttachment) bool {
			return *a.Spec.Source.PersistentVolumeName != "csi-1" || node != "" && a.Spec.NodeName != node
		})
	}
	on("first", "va")
	harness.Eventually(t, patience, "the volume is to be attached", func() error {
		if len(attachments("va")) != 1 {
			return errors.New("it is not")
		}
		return nil
	})
	change(t, s, "", attachments("va")[0].Name, "status", func(a *storagev1.VolumeAttachment) { a.Status.Attached = true })
	harness.Eventually(t, patience, "the node says so", func() error {
		node, err := get[*corev1.Node](s, "", "va")
		if err == nil && (len(node.Status.VolumesAttached) != 1 || node.Status.VolumesAttached[0].Name != "kubernetes.io/csi/disk.example.com^handle-1") {
			err = fmt.Errorf("%v", node.Status.VolumesAttached)
		}
		return err
	})
	second := on("second", "vb")
	harness.Eventually(t, patience, "the second pod is bound", bound(s, ns, "second", "vb"))
	eventsTold(t, s, second, "FailedAttachVolume", `Multi-Attach error for volume "csi-1" Volume is already used by pod(s) first`)
	change(t, s, "", "va", "status", func(n *corev1.Node) {
		n.Status.VolumesInUse = []corev1.UniqueVolumeName{"kubernetes.io/csi/disk.example.com^handle-1"}
	})
	endPods(t, s, ns, "first")
	eventsTold(t, s, second, "FailedAttachVolume", `Multi-Attach error for volume "csi-1" Volume is already exclusively attached to one node and can't be attached to another`)
	if len(attachments("va")) != 1 || len(attachments("")) != 1 {
		t.Errorf("attachments while it is mounted: %v", attachments(""))
	}
	change(t, s, "", "va", "status", func(n *corev1.Node) { n.Status.VolumesInUse = nil })
	harness.Eventually(t, patience, "it moves once it is unmounted", func() error {
		if len(attachments("va")) != 0 || len(attachments("vb")) != 1 {
			return fmt.Errorf("attachments %v", attachments(""))
		}
		return nil
	})
}
