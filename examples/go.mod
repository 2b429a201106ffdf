module github.com/trivet-go/trivet/examples

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	github.com/trivet-go/trivet v0.0.0
	go.uber.org/goleak v1.3.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	go.yaml.in/yaml/v4 v4.0.0
)

replace github.com/trivet-go/trivet => ../
