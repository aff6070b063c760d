//go:build tools

// Package tools pins what is built here.
package tools

import _ "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
