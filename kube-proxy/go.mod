module kijabi.dev/kube-proxy

go 1.26.0
