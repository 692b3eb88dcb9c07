package command

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	certificatev1pb "kijabi.dev/proto/gen/kijabi/certificate/v1"

	"kijabi.dev/cli/internal/output"
)

func newToken() *cobra.Command {
	c := &cobra.Command{
		Use: "token", Short: "Make, list and revoke join tokens",
		Long: `A join token lets one machine become a master, or machines become nodes, for a while.
It carries a pin of the cluster's CA, so that a machine cannot be lured elsewhere.`,
		Example: `  kijabi token create --role node
  kijabi token create --role master --ttl 10m
  kijabi token list
  kijabi token revoke ID`,
	}
	c.AddCommand(newTokenCreate(), newTokenList(), newTokenRevoke())
	return c
}

func newTokenCreate() *cobra.Command {
	c := &cobra.Command{
		Use: "create", Short: "Make a join token and print it", Args: cobra.NoArgs,
		Example: "  kijabi token create --role node --ttl 1h",
	}
	role := c.Flags().String("role", "", "master or node (required)")
	ttl := c.Flags().Duration("ttl", 0, "life (default 1h for masters, 24h for nodes)")
	uses := c.Flags().Int32("uses", 0, "how often it may be used (default: once for masters, any number for nodes)")
	asJSON := outputFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		request := &certificatev1pb.CreateTokenRequest{Uses: *uses}
		switch *role {
		case "master":
			request.Role = certificatev1pb.TokenRole_TOKEN_ROLE_MASTER
		case "node":
			request.Role = certificatev1pb.TokenRole_TOKEN_ROLE_NODE
		default:
			return fmt.Errorf("role %q is not known: use --role master or --role node", *role)
		}
		if *ttl < 0 {
			return fmt.Errorf("ttl %s is negative: give one like 1h", *ttl)
		}
		if *ttl > 0 {
			request.Ttl = durationpb.New(*ttl)
		}
		return connected(c.Context(), find, func(ctx context.Context, conn *grpc.ClientConn) error {
			answer, err := certificatev1pb.NewCertificateServiceClient(conn).CreateToken(ctx, request)
			if err != nil {
				return fmt.Errorf("make a join token: %w", err)
			}
			if wantJSON {
				return output.JSON(c.OutOrStdout(), map[string]any{
					"token": answer.GetToken(), "role": *role, "expires": answer.GetExpires().AsTime(),
				})
			}
			_, _ = fmt.Fprintln(c.OutOrStdout(), answer.GetToken())
			return nil
		})
	}
	return c
}

func newTokenList() *cobra.Command {
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List live join tokens, without their secrets", Args: cobra.NoArgs}
	asJSON := outputFlag(c)
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		wantJSON, err := asJSON()
		if err != nil {
			return err
		}
		return connected(c.Context(), find, func(ctx context.Context, conn *grpc.ClientConn) error {
			answer, err := certificatev1pb.NewCertificateServiceClient(conn).ListTokens(ctx, &certificatev1pb.ListTokensRequest{})
			if err != nil {
				return fmt.Errorf("list join tokens: %w", err)
			}
			return printTokens(c, answer.GetTokens(), wantJSON)
		})
	}
	return c
}

func printTokens(c *cobra.Command, tokens []*certificatev1pb.Token, wantJSON bool) error {
	type view struct {
		ID       string    `json:"id"`
		Role     string    `json:"role"`
		Expires  time.Time `json:"expires"`
		UsesLeft *int32    `json:"usesLeft,omitempty"` // none: any number
	}
	views := []view{}
	var rows [][]string
	for _, token := range tokens {
		role, uses := "node", "any number"
		if token.GetRole() == certificatev1pb.TokenRole_TOKEN_ROLE_MASTER {
			role = "master"
		}
		one := view{ID: token.GetId(), Role: role, Expires: token.GetExpires().AsTime()}
		if left := token.GetUsesLeft(); left >= 0 {
			one.UsesLeft, uses = &left, strconv.Itoa(int(left))
		}
		views = append(views, one)
		rows = append(rows, []string{one.ID, role, uses, time.Until(one.Expires).Round(time.Second).String()})
	}
	if wantJSON {
		return output.JSON(c.OutOrStdout(), views)
	}
	return output.Table(c.OutOrStdout(), []string{"ID", "ROLE", "USES LEFT", "EXPIRES IN"}, rows)
}

func newTokenRevoke() *cobra.Command {
	c := &cobra.Command{Use: "revoke ID", Short: "End a join token", Args: cobra.ExactArgs(1)}
	find := clusterFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		return connected(c.Context(), find, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := certificatev1pb.NewCertificateServiceClient(conn).RevokeToken(ctx, &certificatev1pb.RevokeTokenRequest{Id: args[0]})
			if err != nil {
				return fmt.Errorf("revoke join token %s: %w", args[0], err)
			}
			_, _ = fmt.Fprintf(c.OutOrStdout(), "join token %s revoked\n", args[0])
			return nil
		})
	}
	return c
}
