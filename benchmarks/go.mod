module github.com/trivet-go/trivet/benchmarks

go 1.26

require (
	github.com/stretchr/testify v1.12.1
	github.com/trivet-go/trivet v0.0.0
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/trivet-go/trivet => ../
