package kinds_test

func persistentVolumeGolden() golden {
	return golden{
		resource: "persistentvolumes",
		base: `
metadata: {name: pv1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: /data}
`,
		defaults: []row{
			{"", "spec.persistentVolumeReclaimPolicy = Retain & spec.volumeMode = Filesystem & status.phase = Pending & spec.hostPath.type = ''"},
			{"spec.persistentVolumeReclaimPolicy = Delete & spec.volumeMode = Block", "spec.persistentVolumeReclaimPolicy = Delete & spec.volumeMode = Block"},
			{"spec.hostPath = ~ & spec.iscsi = {targetPortal: '10.0.0.1:3260', iqn: iqn.a, lun: 0}", "spec.iscsi.iscsiInterface = default"},
			{"spec.hostPath = ~ & spec.rbd = {monitors: [a], image: i}", "spec.rbd.pool = rbd & spec.rbd.user = admin & spec.rbd.keyring = /etc/ceph/keyring"},
			{"spec.hostPath = ~ & spec.azureDisk = {diskName: d, diskURI: u}", "spec.azureDisk = {diskName: d, diskURI: u, cachingMode: ReadWrite, fsType: ext4, kind: Shared, readOnly: false}"},
			{"spec.hostPath = ~ & spec.scaleIO = {gateway: g, system: s, volumeName: v, secretRef: {name: a}}", "spec.scaleIO.storageMode = ThinProvisioned & spec.scaleIO.fsType = xfs"},
			{"status = {phase: Bound, reason: x}", "status = {phase: Pending}"},
		},
		valid: []string{
			"spec.accessModes = [ReadWriteOncePod]",
			"spec.accessModes = [ReadWriteOnce, ReadOnlyMany, ReadWriteMany]",
			"spec.hostPath = ~ & spec.local = {path: /mnt/a} & spec.nodeAffinity = {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}]}}",
			"spec.hostPath = ~ & spec.csi = {driver: Ebs.csi.example.com, volumeHandle: v1, nodeStageSecretRef: {name: s, namespace: kube-system}} & spec.volumeAttributesClassName = gold",
			"spec.hostPath = ~ & spec.nfs = {server: nfs.example, path: /exports}",
			"spec.hostPath = ~ & spec.fc = {targetWWNs: ['500a'], lun: 0}",
			"spec.hostPath = ~ & spec.fc = {wwids: ['3600']}",
			"spec.storageClassName = slow",
			"spec.persistentVolumeReclaimPolicy = Recycle",
			"spec.claimRef = {namespace: default, name: data}",
		},
		invalid: []row{
			{"metadata.name = PV", "metadata.name: FieldValueInvalid"},
			{"metadata.namespace = default", "metadata.namespace: FieldValueForbidden"},
			{"spec.accessModes = []", "spec.accessModes: FieldValueRequired"},
			{"spec.accessModes = [Sometimes]", "spec.accessModes: FieldValueNotSupported"},
			{"spec.accessModes = [ReadWriteOncePod, ReadWriteOnce]", "spec.accessModes: FieldValueForbidden"},
			{"spec.capacity = ~", "spec.capacity: FieldValueRequired"},
			{"spec.capacity = {cpu: 1}", "spec.capacity: FieldValueNotSupported"},
			{"spec.capacity = {storage: 1Gi, cpu: 1}", "spec.capacity: FieldValueNotSupported"},
			{"spec.capacity = {storage: 0}", "spec.capacity[storage]: FieldValueInvalid"},
			{"spec.capacity = {storage: -1Gi}", "spec.capacity[storage]: FieldValueInvalid"},
			{"spec.persistentVolumeReclaimPolicy = Shred", "spec.persistentVolumeReclaimPolicy: FieldValueNotSupported"},
			{"spec.hostPath.path = /.. & spec.persistentVolumeReclaimPolicy = Recycle", "spec.hostPath.path: FieldValueInvalid, spec.persistentVolumeReclaimPolicy: FieldValueForbidden"},
			{"spec.hostPath.path = / & spec.persistentVolumeReclaimPolicy = Recycle", "spec.persistentVolumeReclaimPolicy: FieldValueForbidden"},
			{"spec.hostPath = ~", "spec: FieldValueRequired"},
			{"spec.hostPath.path = ''", "spec.hostPath.path: FieldValueRequired"},
			{"spec.hostPath.type = Odd", "spec.hostPath.type: FieldValueNotSupported"},
			{"spec.nfs = {server: s, path: /p}", "spec.nfs: FieldValueForbidden"},
			{"spec.hostPath = ~ & spec.nfs = {server: '', path: p}", "spec.nfs.path: FieldValueInvalid, spec.nfs.server: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.local = {path: ''}", "spec.local.path: FieldValueRequired, spec.nodeAffinity: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.local = {path: /a/../b} & spec.nodeAffinity = {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}", "spec.local.path: FieldValueInvalid"},
			{"spec.nodeAffinity = {}", "spec.nodeAffinity.required: FieldValueRequired"},
			{"spec.nodeAffinity = {required: {nodeSelectorTerms: []}}", "spec.nodeAffinity.required.nodeSelectorTerms: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.csi = {driver: '', volumeHandle: ''}", "spec.csi.driver: FieldValueRequired, spec.csi.volumeHandle: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.csi = {driver: a_b, volumeHandle: v}", "spec.csi.driver: FieldValueInvalid"},
			{"spec.hostPath = ~ & spec.csi = {driver: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.csi, volumeHandle: v}", "spec.csi.driver: FieldValueTooLong"},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v, nodePublishSecretRef: {name: s}}", "spec.csi.nodePublishSecretRef.namespace: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v, controllerPublishSecretRef: {namespace: ns}}", "spec.csi.controllerPublishSecretRef.name: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.iscsi = {targetPortal: '', iqn: '', lun: 256}", "spec.iscsi.iqn: FieldValueRequired, spec.iscsi.lun: FieldValueInvalid, spec.iscsi.targetPortal: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.fc = {}", "spec.fc.targetWWNs: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.fc = {targetWWNs: [a]}", "spec.fc.lun: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.fc = {targetWWNs: [a], wwids: [b]}", "spec.fc.targetWWNs: FieldValueInvalid"},
			{"spec.hostPath = ~ & spec.rbd = {monitors: [], image: ''}", "spec.rbd.image: FieldValueRequired, spec.rbd.monitors: FieldValueRequired"},
			{"spec.hostPath = ~ & spec.azureFile = {secretName: s, shareName: '', secretNamespace: ''}", "spec.azureFile.secretNamespace: FieldValueRequired, spec.azureFile.shareName: FieldValueRequired"},
			{"spec.storageClassName = A_", "spec.storageClassName: FieldValueInvalid"},
			{"spec.volumeMode = Tape", "spec.volumeMode: FieldValueNotSupported"},
			{"spec.volumeAttributesClassName = ''", "spec.csi: FieldValueRequired, spec.volumeAttributesClassName: FieldValueRequired"},
			{"spec.volumeAttributesClassName = gold", "spec.csi: FieldValueRequired"},
		},
		update: []row{
			{"spec.claimRef = {namespace: default, name: data}", ""},
			{"spec.capacity = {storage: 2Gi}", ""},
			{"spec.persistentVolumeReclaimPolicy = Delete", ""},
			{"spec.hostPath.path = /other", "spec.persistentvolumesource: FieldValueForbidden"},
			{"spec.volumeMode = Block", "spec.volumeMode: FieldValueInvalid"},
			{"spec.nodeAffinity = {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}", ""},
			{"spec.nodeAffinity = {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}} => spec.nodeAffinity = ~", "spec.nodeAffinity: FieldValueInvalid"},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v} => spec.csi.controllerExpandSecretRef = {name: s, namespace: ns}", ""},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v, controllerExpandSecretRef: {name: s, namespace: ns}} => spec.csi.controllerExpandSecretRef = {name: t, namespace: ns}", "spec.persistentvolumesource: FieldValueForbidden"},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v} => spec.csi.volumeHandle = w", "spec.persistentvolumesource: FieldValueForbidden"},
			{"spec.hostPath = ~ & spec.csi = {driver: d, volumeHandle: v} & spec.volumeAttributesClassName = gold => spec.volumeAttributesClassName = silver", ""},
			{"status.phase = Failed", ""},
		},
		status: []row{
			{"status.phase = Available", ""},
			{"spec.capacity = {storage: 9Gi} & status.phase = Bound", ""},
		},
	}
}

func persistentVolumeClaimGolden() golden {
	return golden{
		resource: "persistentvolumeclaims",
		base: `
metadata: {name: data, namespace: default}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: fast
  resources: {requests: {storage: 1Gi}}
`,
		defaults: []row{
			{"", "spec.volumeMode = Filesystem & status.phase = Pending"},
			{"spec.dataSource = {kind: PersistentVolumeClaim, name: other}", "spec.dataSourceRef = {apiGroup: ~, kind: PersistentVolumeClaim, name: other}"},
			{"spec.dataSourceRef = {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s}", "spec.dataSource = {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s}"},
			{"spec.dataSource = {apiGroup: example.com, kind: Tape, name: t}", "spec.dataSource = ~ & spec.dataSourceRef = ~"},
			{"spec.dataSourceRef = {apiGroup: example.com, kind: Tape, name: t}", "spec.dataSource = {apiGroup: example.com, kind: Tape, name: t}"},
			{"status = {phase: Bound}", "status = {phase: Pending}"},
		},
		valid: []string{
			"spec.storageClassName = ''",
			"spec.storageClassName = ~",
			"spec.selector = {matchLabels: {a: b}}",
			"spec.volumeName = pv1",
			"spec.volumeMode = Block",
			"spec.volumeAttributesClassName = gold",
			"spec.volumeAttributesClassName = ''",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"spec.accessModes = ~", "spec.accessModes: FieldValueRequired"},
			{"spec.accessModes = [Odd]", "spec.accessModes: FieldValueNotSupported"},
			{"spec.accessModes = [ReadWriteOncePod, ReadOnlyMany]", "spec.accessModes: FieldValueForbidden"},
			{"spec.resources = {}", "spec.resources[storage]: FieldValueRequired"},
			{"spec.resources = {requests: {storage: 0}}", "spec.resources[storage]: FieldValueInvalid"},
			{"spec.resources = {requests: {storage: -1}}", "spec.resources[storage]: FieldValueInvalid"},
			{"spec.storageClassName = A_", "spec.storageClassName: FieldValueInvalid"},
			{"spec.volumeMode = Odd", "spec.volumeMode: FieldValueNotSupported"},
			{"spec.volumeAttributesClassName = A_", "spec.volumeAttributesClassName: FieldValueInvalid"},
			{"spec.selector = {matchExpressions: [{key: a, operator: In}]}", "spec.selector.matchExpressions[0].values: FieldValueRequired"},
			{"spec.dataSource = {kind: PersistentVolumeClaim, name: ''}", "spec.dataSource.name: FieldValueRequired, spec.dataSourceRef.name: FieldValueRequired"},
			{"spec.dataSourceRef = {kind: Pod, name: p}", "spec.dataSource: FieldValueInvalid, spec.dataSourceRef: FieldValueInvalid"},
			{"spec.dataSourceRef = {apiGroup: A_, kind: Tape, name: t}", "spec.dataSource.apiGroup: FieldValueInvalid, spec.dataSourceRef.apiGroup: FieldValueInvalid"},
			{"spec.dataSource = {kind: PersistentVolumeClaim, name: a} & spec.dataSourceRef = {kind: PersistentVolumeClaim, name: b}", "spec: FieldValueInvalid"},
			{"spec.dataSourceRef = {kind: PersistentVolumeClaim, name: a, namespace: other}", "spec.dataSourceRef.namespace: FieldValueForbidden"},
		},
		update: []row{
			{"metadata.labels = {a: b}", ""},
			{"spec.volumeName = pv1", ""},
			{"spec.volumeName = pv1 => spec.volumeName = pv2", "spec: FieldValueForbidden"},
			{"spec.storageClassName = slow", "spec: FieldValueForbidden"},
			{"spec.storageClassName = ~ => spec.storageClassName = fast", ""},
			{"spec.storageClassName = ~ & spec.volumeName = pv1 => spec.storageClassName = fast", "spec: FieldValueForbidden"},
			{"spec.accessModes = [ReadOnlyMany]", "spec: FieldValueForbidden"},
			{"spec.volumeMode = Block", "spec: FieldValueForbidden"},
			{"spec.resources.requests.storage = 2Gi", "spec: FieldValueForbidden"},
			{"spec.resources.requests.storage = 1024Mi", ""},
			{"spec.volumeAttributesClassName = gold", "spec: FieldValueForbidden"},
			{"status.phase = Bound", ""},
		},
		status: []row{
			{"status = {phase: Bound, capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce]}", ""},
			{"status.capacity = {storage: -1}", "status.capacity[storage]: FieldValueInvalid"},
			{"status.allocatedResources = {storage: 1Gi, example.com/iops: 5}", ""},
			{"status.allocatedResources = {cpu: 1}", "status.allocatedResources[cpu]: FieldValueNotSupported"},
			{"status.allocatedResources = {kubernetes.io/x: 1}", "status.allocatedResources[kubernetes.io/x]: FieldValueNotSupported"},
			{"status.allocatedResourceStatuses = {storage: NodeResizePending}", ""},
			{"status.allocatedResourceStatuses = {storage: Odd}", "status.allocatedResourceStatuses[storage]: FieldValueNotSupported"},
			{"status.conditions = [{type: Resizing, status: 'True'}, {type: Resizing, status: 'False'}]", "status.conditions[1].type: FieldValueDuplicate"},
		},
	}
}

func storageClassGolden() golden {
	return golden{
		resource: "storageclasses.storage.k8s.io",
		base:     "metadata: {name: fast}\nprovisioner: example.com/disk",
		defaults: []row{
			{"", "reclaimPolicy = Delete & volumeBindingMode = Immediate & allowVolumeExpansion = ~"},
			{"reclaimPolicy = Retain & volumeBindingMode = WaitForFirstConsumer", "reclaimPolicy = Retain & volumeBindingMode = WaitForFirstConsumer"},
		},
		valid: []string{
			"provisioner = kubernetes.io/no-provisioner",
			"provisioner = Example.com/Disk",
			"parameters = {type: ssd, zone: ''}",
			"mountOptions = [ro, whatever]",
			"allowedTopologies = [{matchLabelExpressions: [{key: zone, values: [a, b]}]}, {matchLabelExpressions: [{key: zone, values: [c]}]}]",
		},
		invalid: []row{
			{"metadata.name = A_", "metadata.name: FieldValueInvalid"},
			{"provisioner = ~", "provisioner: FieldValueRequired"},
			{"provisioner = 'a b'", "provisioner: FieldValueInvalid"},
			{"provisioner = a/b/c", "provisioner: FieldValueInvalid"},
			{"parameters = {'': x}", "parameters: FieldValueInvalid"},
			{"reclaimPolicy = Recycle", "reclaimPolicy: FieldValueNotSupported"},
			{"volumeBindingMode = Later", "volumeBindingMode: FieldValueNotSupported"},
			{"volumeBindingMode = ''", "volumeBindingMode: FieldValueRequired"},
			{"allowedTopologies = [{matchLabelExpressions: [{key: 'a b', values: [a]}]}]", "allowedTopologies[0].matchLabelExpressions[0].key: FieldValueInvalid"},
			{"allowedTopologies = [{matchLabelExpressions: [{key: zone, values: []}]}]", "allowedTopologies[0].matchLabelExpressions[0].values: FieldValueRequired"},
			{"allowedTopologies = [{matchLabelExpressions: [{key: zone, values: [a, a]}]}]", "allowedTopologies[0].matchLabelExpressions[0].values[1]: FieldValueDuplicate"},
			{"allowedTopologies = [{matchLabelExpressions: [{key: zone, values: [a]}, {key: zone, values: [b]}]}]", "allowedTopologies[0].matchLabelExpressions[1].key: FieldValueDuplicate"},
			{"allowedTopologies = [{matchLabelExpressions: [{key: zone, values: [a, b]}]}, {matchLabelExpressions: [{key: zone, values: [b, a]}]}]", "allowedTopologies[1].matchLabelExpressions: FieldValueDuplicate"},
		},
		update: []row{
			{"allowVolumeExpansion = true & mountOptions = [ro]", ""},
			{"provisioner = example.com/tape", "provisioner: FieldValueForbidden"},
			{"parameters = {type: ssd}", "parameters: FieldValueForbidden"},
			{"reclaimPolicy = Retain", "reclaimPolicy: FieldValueForbidden"},
			{"volumeBindingMode = WaitForFirstConsumer", "volumeBindingMode: FieldValueInvalid"},
			{"metadata.annotations = {storageclass.kubernetes.io/is-default-class: 'true'}", ""},
		},
	}
}

func volumeAttributesClassGolden() golden {
	return golden{
		resource: "volumeattributesclasses.storage.k8s.io",
		base:     "metadata: {name: gold}\ndriverName: csi.example.com\nparameters: {iops: '4000'}",
		invalid: []row{
			{"driverName = ''", "driverName: FieldValueRequired"},
			{"driverName = a_b", "driverName: FieldValueInvalid"},
			{"parameters = ~", "parameters: FieldValueRequired"},
			{"parameters = {'': x}", "parameters: FieldValueInvalid"},
		},
		update: []row{
			{"metadata.labels = {a: b}", ""},
			{"driverName = other.example.com", "driverName: FieldValueForbidden"},
			{"parameters = {iops: '1'}", "parameters: FieldValueForbidden"},
		},
	}
}

func volumeAttachmentGolden() golden {
	return golden{
		resource: "volumeattachments.storage.k8s.io",
		base:     "metadata: {name: csi-1}\nspec: {attacher: csi.example.com, nodeName: n1, source: {persistentVolumeName: pv1}}",
		defaults: []row{
			{"status = {attached: true}", "status = {attached: false}"},
			{"spec.source = {inlineVolumeSpec: {csi: {driver: d, volumeHandle: v}}}", "spec.source.inlineVolumeSpec.volumeMode = Filesystem"},
		},
		invalid: []row{
			{"spec.attacher = ''", "spec.attacher: FieldValueRequired"},
			{"spec.attacher = a_b", "spec.attacher: FieldValueInvalid"},
			{"spec.nodeName = ''", "spec.nodeName: FieldValueInvalid"},
			{"spec.source = {}", "spec.source: FieldValueRequired"},
			{"spec.source.persistentVolumeName = ''", "spec.source.persistentVolumeName: FieldValueRequired"},
			{"spec.source.inlineVolumeSpec = {}", "spec.source: FieldValueForbidden"},
			{"spec.source = {inlineVolumeSpec: {}}", "spec.source.inlineVolumeSpec: FieldValueRequired"},
		},
		update: []row{
			{"metadata.finalizers = [external-attacher/csi-example-com]", ""},
			{"spec.nodeName = n2", "spec: FieldValueInvalid"},
			{"spec.source.persistentVolumeName = pv2", "spec: FieldValueInvalid"},
		},
		status: []row{
			{"status = {attached: true, attachmentMetadata: {device: /dev/sdb}}", ""},
			{"status = {attached: false, attachError: {message: broken, errorCode: -1}}", "status.attachError.errorCode: FieldValueInvalid"},
			{"status = {attached: false, detachError: {message: broken, errorCode: 5}}", ""},
		},
	}
}

func csiDriverGolden() golden {
	return golden{
		resource: "csidrivers.storage.k8s.io",
		base:     "metadata: {name: csi.example.com}\nspec: {}",
		defaults: []row{
			{"", "spec.attachRequired = true & spec.podInfoOnMount = false & spec.storageCapacity = false & spec.fsGroupPolicy = ReadWriteOnceWithFSType"},
			{"", "spec.requiresRepublish = false & spec.seLinuxMount = false & spec.volumeLifecycleModes = [Persistent]"},
			{"spec.attachRequired = false & spec.fsGroupPolicy = File & spec.volumeLifecycleModes = [Ephemeral]", "spec.attachRequired = false & spec.fsGroupPolicy = File & spec.volumeLifecycleModes = [Ephemeral]"},
		},
		valid: []string{
			"metadata.name = Csi.Example.com",
			"spec.tokenRequests = [{audience: a, expirationSeconds: 600}, {audience: ''}] & spec.serviceAccountTokenInSecrets = true",
			"spec.nodeAllocatableUpdatePeriodSeconds = 10",
		},
		invalid: []row{
			{"metadata.name = a_b", "metadata.name: FieldValueInvalid"},
			{"metadata.name = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.csi", "metadata.name: FieldValueInvalid"},
			{"spec.fsGroupPolicy = Odd", "spec.fsGroupPolicy: FieldValueNotSupported"},
			{"spec.volumeLifecycleModes = [Odd]", "spec.volumeLifecycleModes[0]: FieldValueNotSupported"},
			{"spec.volumeLifecycleModes = [Ephemeral, Ephemeral]", "spec.volumeLifecycleModes[1]: FieldValueDuplicate"},
			{"spec.tokenRequests = [{audience: a}, {audience: a}]", "spec.tokenRequests[1].audience: FieldValueDuplicate"},
			{"spec.tokenRequests = [{audience: a, expirationSeconds: 5}]", "spec.tokenRequests[0].expirationSeconds: FieldValueInvalid"},
			{"spec.tokenRequests = [{audience: a, expirationSeconds: 4294967297}]", "spec.tokenRequests[0].expirationSeconds: FieldValueInvalid"},
			{"spec.nodeAllocatableUpdatePeriodSeconds = 9", "spec.nodeAllocatableUpdatePeriodSeconds: FieldValueInvalid"},
			{"spec.serviceAccountTokenInSecrets = true", "spec.serviceAccountTokenInSecrets: FieldValueInvalid"},
		},
		update: []row{
			{"spec.podInfoOnMount = true & spec.storageCapacity = true & spec.fsGroupPolicy = None", ""},
			{"spec.attachRequired = false", "spec.attachRequired: FieldValueInvalid"},
			{"spec.volumeLifecycleModes = [Ephemeral]", "spec.volumeLifecycleModes: FieldValueInvalid"},
		},
	}
}

func csiNodeGolden() golden {
	return golden{
		resource: "csinodes.storage.k8s.io",
		base:     "metadata: {name: n1}\nspec: {drivers: [{name: csi.example.com, nodeID: i-1, topologyKeys: [example.com/zone]}]}",
		valid:    []string{"spec.drivers = []", "spec.drivers[0].allocatable = {count: 0}"},
		invalid: []row{
			{"metadata.name = N1", "metadata.name: FieldValueInvalid"},
			{"spec.drivers[0].name = ''", "spec.drivers[0].name: FieldValueRequired"},
			{"spec.drivers[0].nodeID = ''", "spec.drivers[0].nodeID: FieldValueRequired"},
			{"spec.drivers[0].topologyKeys = [a, a]", "spec.drivers[0].topologyKeys[1]: FieldValueDuplicate"},
			{"spec.drivers[0].topologyKeys = ['']", "spec.drivers[0].topologyKeys[0]: FieldValueRequired"},
			{"spec.drivers[0].topologyKeys = ['a b']", "spec.drivers[0].topologyKeys[0]: FieldValueInvalid"},
			{"spec.drivers[0].allocatable = {count: -1}", "spec.drivers[0].allocatable.count: FieldValueInvalid"},
			{"spec.drivers[1] = {name: csi.example.com, nodeID: x, topologyKeys: []}", "spec.drivers[1].name: FieldValueDuplicate"},
		},
		update: []row{
			{"spec.drivers = []", ""},
			{"spec.drivers[1] = {name: other.example.com, nodeID: x, topologyKeys: []}", ""},
			{"spec.drivers[0].allocatable = {count: 5}", ""},
			{"spec.drivers[0].nodeID = i-2", "spec.drivers[0]: FieldValueInvalid"},
			{"spec.drivers[0].topologyKeys = []", "spec.drivers[0]: FieldValueInvalid"},
		},
		status: []row{
			{"status.storageHealth = [{name: csi.example.com, healthConditions: [{status: StorageDegraded, reason: Slow}]}]", ""},
			{"status.storageHealth = [{name: csi.example.com, healthConditions: [{status: Odd, reason: ''}]}]", "status.storageHealth[0].healthConditions[0].reason: FieldValueRequired, status.storageHealth[0].healthConditions[0].status: FieldValueNotSupported"},
			{"status.storageHealth = [{name: a}, {name: a}]", "status.storageHealth[1].name: FieldValueDuplicate"},
		},
	}
}

func csiStorageCapacityGolden() golden {
	return golden{
		resource: "csistoragecapacities.storage.k8s.io",
		base:     "metadata: {name: csisc-1, namespace: default}\nstorageClassName: fast\ncapacity: 10Gi\nnodeTopology: {matchLabels: {zone: a}}",
		valid:    []string{"capacity = ~ & nodeTopology = ~", "maximumVolumeSize = 1Gi"},
		invalid: []row{
			{"storageClassName = ''", "storageClassName: FieldValueInvalid"},
			{"capacity = -1", "capacity: FieldValueInvalid"},
			{"maximumVolumeSize = -1", "maximumVolumeSize: FieldValueInvalid"},
			{"nodeTopology = {matchExpressions: [{key: a, operator: Odd}]}", "nodeTopology.matchExpressions[0].operator: FieldValueInvalid"},
		},
		update: []row{
			{"capacity = 1Gi & maximumVolumeSize = 1Gi", ""},
			{"storageClassName = slow", "storageClassName: FieldValueInvalid"},
			{"nodeTopology = {matchLabels: {zone: b}}", "nodeTopology: FieldValueInvalid"},
		},
	}
}
