module github.com/trivet-go/trivet/benchmarks

go 1.26

require github.com/trivet-go/trivet v0.0.0

replace github.com/trivet-go/trivet => ../
