module kijabi.dev/cloud-controller-manager

go 1.26.0
