// Command plugin is the Pulumi resource plugin.
package main

import (
	"context"

	"github.com/terraform-providers/terraform-provider-random/nixvm/info"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/pf/tfbridge"
)

func main() {
	tfbridge.Main(context.Background(), "random", info.Provider(), tfbridge.ProviderMetadata{PackageSchema: info.Schema})
}
