module kijabi.dev/apiserver

go 1.26.0
