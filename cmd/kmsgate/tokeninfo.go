package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/hsm"
	"github.com/kmsgate/kmsgate/internal/printable"
)

func describeToken(ctx context.Context, c target.Caller, parameters map[string]string) (cli.View, error) {
	var answer kms.DescribeTokenResponse
	if err := c.Call(ctx, "DescribeToken", nil, &answer); err != nil {
		return cli.View{}, err
	}
	return viewOfSurvey(answer.Survey, parameters)
}

func viewOfSurvey(s hsm.Survey, parameters map[string]string) (cli.View, error) {
	tables := [][][]string{descriptionOf(s), cli.Table(offersOf(s))}
	if parameters["Mechanisms"] == "true" {
		tables = append(tables, cli.Table(mechanismsOf(s)))
	}
	text, err := cli.Align(tables...)
	return cli.View{Value: s, Text: text}, err
}

// descriptionOf shows what a module and a token report of themselves.
func descriptionOf(s hsm.Survey) [][]string {
	sessions := "no known limit"
	if s.Token.MaxSessions > 0 {
		sessions = strconv.FormatUint(uint64(s.Token.MaxSessions), 10)
	}
	sealing := s.Sealing
	if sealing == "" {
		sealing = "none: kmsgate cannot use this token, since it has neither CKM_AES_GCM nor CKM_SHA256_HMAC"
	}
	signing := "with the token's own objects"
	if s.Copies {
		signing = "with session copies of the objects, which is faster here"
	}
	return append(moduleAndToken(s.Module, s.Token), [][]string{
		{"Flags", printable.Text(strings.Join(s.Token.Flags, ", "))},
		{"Sessions", sessions},
		{"Sealing", printable.Text(sealing)},
		{"Signing", signing},
	}...)
}

// moduleAndToken says which module and which token it is.
func moduleAndToken(m hsm.ModuleInfo, t hsm.TokenInfo) [][]string {
	return [][]string{
		{"Module", printable.Text(m.Path)},
		{"", printable.Text(fmt.Sprintf("%s, %s, version %s, PKCS#11 %s", m.Description, m.Manufacturer, m.Version, m.Cryptoki))},
		{"Token", printable.Text(fmt.Sprintf("label %q, serial number %s, slot %d", t.Label, t.Serial, t.Slot))},
		{"", printable.Text(fmt.Sprintf("%s, %s, hardware %s, firmware %s", t.Model, t.Manufacturer, t.Hardware, t.Firmware))},
	}
}

// An offerLine is an hsm.Offer in one line of a table.
type offerLine struct {
	KeySpec  hsm.KeySpec
	Offered  string
	Where    string
	Generate string
	Sign     string
	Reason   string
}

func offersOf(s hsm.Survey) (all []offerLine) {
	for _, o := range s.Offers {
		line := offerLine{KeySpec: o.KeySpec, Offered: "no", Reason: o.Reason, Generate: milliseconds(o.Generate), Sign: milliseconds(o.Sign)}
		if o.Offered {
			line.Offered, line.Where = "yes", "in the token"
		}
		if o.Offered && o.Software {
			line.Where = "in software, sealed by the token"
		}
		all = append(all, line)
	}
	return all
}

// milliseconds returns a duration with its unit, or "" if it was not measured.
func milliseconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

type mechanismLine struct {
	Mechanism  string
	MinKeySize uint
	MaxKeySize uint
	Flags      []string
}

func mechanismsOf(s hsm.Survey) (all []mechanismLine) {
	for _, m := range s.Mechanisms {
		all = append(all, mechanismLine{m.Name, m.MinKeySize, m.MaxKeySize, m.Flags})
	}
	return all
}
