module github.com/revocast/revocast/deploy/model/gosim

go 1.26
