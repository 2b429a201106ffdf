// Package examples holds programs that start as a copy: each folder is one.
package examples
