module kijabi.dev/scheduler

go 1.26.0
