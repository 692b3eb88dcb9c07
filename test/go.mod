module kijabi.dev/test

go 1.26.0
