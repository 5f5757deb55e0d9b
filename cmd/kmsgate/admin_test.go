package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// A fakeGateway returns prepared answers and records what it was asked.
type fakeGateway struct {
	answers map[string]string // JSON, of an action or of an action and a page: ListKeys 2
	refuse  map[string]error
	calls   []string
	dialed  int
	closed  int
}

func (g *fakeGateway) Configuration() (*config.Config, error) { return nil, nil }

func (g *fakeGateway) AuditFiles() (log, key string, err error) { return "", "", nil }

func (g *fakeGateway) Register(cmd *cobra.Command) {
	cmd.PersistentFlags().String("socket", "", "the gateway's socket")
}

func (g *fakeGateway) Dial(*cobra.Command) (target.Caller, error) {
	g.dialed++
	return g, nil
}

func (g *fakeGateway) DialRunning(cmd *cobra.Command) (target.Caller, error) { return g.Dial(cmd) }

func (g *fakeGateway) Close() error {
	g.closed++
	return nil
}

func (g *fakeGateway) Call(_ context.Context, action string, parameters map[string]string, resp any) error {
	call := action
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		call += " " + name + "=" + parameters[name]
	}
	g.calls = append(g.calls, call)
	if err := g.refuse[action]; err != nil {
		return err
	}
	answer, ok := g.answers[action+" "+parameters["PageNumber"]]
	if !ok {
		answer = g.answers[action]
	}
	if answer == "" {
		answer = `{"RequestId":"r-1"}`
	}
	if resp == nil {
		return nil
	}
	return json.Unmarshal([]byte(answer), resp)
}

func (g *fakeGateway) Do(ctx context.Context, request kms.AdminRequest, answer any) error {
	return g.Call(ctx, request.Action, request.Parameters, answer)
}

func (g *fakeGateway) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	if err := g.Call(ctx, action, parameters, nil); err != nil {
		return err
	}
	_, err := io.WriteString(w, g.answers[action])
	return err
}

// kmsgate runs a command line.
func (g *fakeGateway) kmsgate(stdin string, args ...string) (stdout, stderr string, err error) {
	root := rootCommand(g)
	var out, errs bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err = root.Execute()
	return out.String(), errs.String(), err
}

const (
	aKey      = `{"KeyMetadata":{"KeyId":"k-1","KeySpec":"EC_P256","KeyState":"Enabled","Description":"a\u001b[31mb","CreationDate":"2026-11-22T00:00:00Z"}}`
	aDocument = `{"Version":"1","Statement":[]}`
	allowKey  = `[{"KeyArn":"acs:kms:r:1:key/k-1","KeyId":"k-1"}]`
)

// commandLines are command lines, the calls that each makes, and what it prints. {FILE} is a
// file with aDocument.
type commandLine struct {
	line    string
	answers map[string]string
	calls   []string
	table   string
	json    string
}

var commandLines = []commandLine{
	{"user create alice --description x", nil,
		[]string{"CreateUser Comments=x UserName=alice"}, "User alice was created.\n", `{"RequestId":"r-1"}`},
	{"user list", map[string]string{"ListUsers": `{"Users":{"User":[{"UserName":"alice","CreateDate":"d","Policies":{"Policy":["p","q"]},"AccessKeys":2}]}}`},
		[]string{"ListUsers"},
		"UserName  Comments  CreateDate  Policies  AccessKeys\nalice               d           p, q      2\n",
		`[{"UserName":"alice","Comments":"","CreateDate":"d","Policies":["p","q"],"AccessKeys":2}]`},
	{"user show alice", map[string]string{"ListUsers": `{"Users":{"User":[{"UserName":"alice","CreateDate":"d","Policies":{"Policy":["p","q"]},"AccessKeys":1}]}}`,
		"ListAccessKeys": `{"AccessKeys":{"AccessKey":[{"AccessKeyId":"A","UserName":"alice","Status":"Active","CreateDate":"d","LastUsedDate":"e"}]}}`},
		[]string{"ListUsers", "ListAccessKeys UserName=alice"},
		"UserName    alice\nCreateDate  d\nPolicies    p, q\nAccessKeys  1\n\nAccessKeyId  Status  CreateDate  LastUsedDate\nA            Active  d           e\n",
		`{"UserName":"alice","Comments":"","CreateDate":"d","Policies":["p","q"],"AccessKeys":[{"AccessKeyId":"A","UserName":"alice","Status":"Active","CreateDate":"d","LastUsedDate":"e"}]}`},
	{"user delete alice --yes", nil, []string{"DeleteUser Force=true UserName=alice"}, "User alice was deleted.\n", `{"RequestId":"r-1"}`},

	{"accesskey create --user alice", map[string]string{"CreateAccessKey": `{"AccessKeyId":"A","AccessKeySecret":"S","UserName":"alice","CreateDate":"d"}`},
		[]string{"CreateAccessKey UserName=alice"},
		"{\n  \"AccessKeyId\": \"A\",\n  \"AccessKeySecret\": \"S\",\n  \"UserName\": \"alice\",\n  \"CreateDate\": \"d\"\n}\n",
		`{"AccessKeyId":"A","AccessKeySecret":"S","UserName":"alice","CreateDate":"d"}`},
	{"accesskey list --user alice", map[string]string{"ListAccessKeys": `{"AccessKeys":{"AccessKey":[{"AccessKeyId":"A","UserName":"alice","Status":"Active","CreateDate":"d","LastUsedDate":"e"}]}}`},
		[]string{"ListAccessKeys UserName=alice"},
		"AccessKeyId  UserName  Status  CreateDate  LastUsedDate\nA            alice     Active  d           e\n",
		`[{"AccessKeyId":"A","UserName":"alice","Status":"Active","CreateDate":"d","LastUsedDate":"e"}]`},
	{"accesskey list", map[string]string{"ListAccessKeys": `{"AccessKeys":{"AccessKey":[]}}`},
		[]string{"ListAccessKeys"}, "AccessKeyId  UserName  Status  CreateDate  LastUsedDate\n", `[]`},
	{"accesskey disable A", nil, []string{"UpdateAccessKey AccessKeyId=A Status=Inactive"}, "Access key A is disabled.\n", `{"RequestId":"r-1"}`},
	{"accesskey enable A", nil, []string{"UpdateAccessKey AccessKeyId=A Status=Active"}, "Access key A is enabled.\n", `{"RequestId":"r-1"}`},
	{"accesskey delete A --yes", nil, []string{"DeleteAccessKey AccessKeyId=A"}, "Access key A was deleted.\n", `{"RequestId":"r-1"}`},

	{"policy create p --file {FILE} --description why", nil,
		[]string{"CreateRamPolicy Description=why PolicyDocument=" + aDocument + " PolicyName=p"}, "Policy p was created.\n", `{"RequestId":"r-1"}`},
	{"policy list", map[string]string{"ListRamPolicies": `{"Policies":{"Policy":[{"PolicyName":"p","PolicyType":"Custom","Description":"why","AttachmentCount":1,"CreateDate":"d","UpdateDate":"e"}]}}`},
		[]string{"ListRamPolicies"},
		"PolicyName  PolicyType  Description  AttachmentCount  CreateDate  UpdateDate\np           Custom      why          1                d           e\n",
		`[{"PolicyName":"p","PolicyType":"Custom","Description":"why","AttachmentCount":1,"CreateDate":"d","UpdateDate":"e"}]`},
	{"policy show p", map[string]string{"GetRamPolicy": `{"Policy":{"PolicyName":"p","PolicyType":"Custom","PolicyDocument":"{\"Version\":\"1\"}"}}`},
		[]string{"GetRamPolicy PolicyName=p"}, "{\n  \"Version\": \"1\"\n}\n",
		`{"PolicyName":"p","PolicyType":"Custom","Description":"","AttachmentCount":0,"CreateDate":"","UpdateDate":"","PolicyDocument":"{\"Version\":\"1\"}"}`},
	{"policy update p --file - --yes", nil,
		[]string{"UpdateRamPolicy PolicyDocument={} PolicyName=p"}, "Policy p was updated.\n", `{"RequestId":"r-1"}`},
	{"policy delete p --yes", nil, []string{"DeleteRamPolicy PolicyName=p"}, "Policy p was deleted.\n", `{"RequestId":"r-1"}`},
	{"policy attach p --user alice", nil,
		[]string{"AttachPolicyToUser PolicyName=p UserName=alice"}, "Policy p is attached to user alice.\n", `{"RequestId":"r-1"}`},
	{"policy detach p --user alice", nil,
		[]string{"DetachPolicyFromUser PolicyName=p UserName=alice"}, "Policy p was detached from user alice.\n", `{"RequestId":"r-1"}`},
	{"policy simulate --user alice --action AsymmetricSign --key k --source-ip 192.0.2.7",
		map[string]string{"SimulatePolicy": `{"Allowed":true,"Reason":"why","PolicyName":"p","Statement":2,"Resource":"r"}`},
		[]string{"DescribeKey KeyId=k", "SimulatePolicy ActionName=AsymmetricSign KeyId=k SourceIp=192.0.2.7 UserName=alice"},
		"Allowed     true\nReason      why\nPolicyName  p\nStatement   2\nResource    r\n",
		`{"Allowed":true,"Reason":"why","PolicyName":"p","Statement":2,"Resource":"r"}`},

	{"policy simulate --user aap:app --action CreatePolicy --name n", map[string]string{"SimulatePolicy": `{"Reason":"why"}`},
		[]string{"SimulatePolicy ActionName=CreatePolicy Name=n UserName=aap:app"}, "Allowed  false\nReason   why\n",
		`{"Allowed":false,"Reason":"why","PolicyName":"","Statement":0,"Resource":""}`},

	{"quota list", map[string]string{"ListQuotas": `{"Quotas":{"Quota":[{"Gateway":"shared","QuotaName":"asymmetric","UserName":"alice","QueriesPerSecond":0.5}]}}`},
		[]string{"ListQuotas"},
		"Gateway  QuotaName   UserName  QueriesPerSecond\nshared   asymmetric  alice     0.5\n",
		`[{"Gateway":"shared","QuotaName":"asymmetric","UserName":"alice","QueriesPerSecond":0.5}]`},
	{"quota update --user alice --quota asymmetric --qps 50", nil,
		[]string{"SetUserQuota QueriesPerSecond=50 QuotaName=asymmetric UserName=alice"}, "Quota asymmetric of user alice is 50 requests a second.\n", `{"RequestId":"r-1"}`},
	{"quota reset --user alice --quota asymmetric", nil,
		[]string{"SetUserQuota QueriesPerSecond= QuotaName=asymmetric UserName=alice"}, "The gateway's quota asymmetric applies to user alice again.\n", `{"RequestId":"r-1"}`},

	{"key create --spec EC_P256 --description x --tag a=b --tag c= --policy-file {FILE}", map[string]string{"CreateKey": aKey},
		[]string{`CreateKey Description=x KeySpec=EC_P256 Policy=` + aDocument + ` Tags=[{"TagKey":"a","TagValue":"b"},{"TagKey":"c","TagValue":""}]`},
		keyTable, keyJSON},
	{"key show alias/x", map[string]string{"DescribeKey": aKey, "ListAliasesByKeyId": `{"Aliases":{"Alias":[{"AliasName":"alias/x"},{"AliasName":"alias/y"}]},"TotalCount":2}`,
		"ListKeyVersions":    `{"KeyVersions":{"KeyVersion":[{"KeyVersionId":"v-1","KeyId":"k-1","CreationDate":"d"}]},"TotalCount":1}`,
		"ListKeyVersionUses": `{"KeyVersions":{"KeyVersion":[{"KeyVersionId":"v-1","LastUsedDate":"e"}]}}`,
		"ListResourceTags":   `{"Tags":{"Tag":[{"KeyId":"k-1","TagKey":"a","TagValue":"b"}]}}`, "GetKeyPolicy": `{"Policy":"{\"Version\":\"1\"}"}`},
		[]string{"DescribeKey KeyId=alias/x", "ListAliasesByKeyId KeyId=k-1 PageNumber=1 PageSize=100", "ListKeyVersions KeyId=k-1 PageNumber=1 PageSize=100",
			"ListKeyVersionUses KeyId=k-1", "ListResourceTags KeyId=k-1", "GetKeyPolicy KeyId=k-1"},
		keyTable + "Aliases       alias/x\n              alias/y\nVersions      v-1, created d, last used e\nTags          a=b\nPolicy\n{\n  \"Version\": \"1\"\n}\n",
		`{"KeyId":"k-1","KeySpec":"EC_P256","KeyUsage":"","KeyState":"Enabled","DeleteDate":"","Description":"a\u001b[31mb","ProtectionLevel":"","DeletionProtection":"","DeletionProtectionDescription":"","Creator":"","CreationDate":"2026-11-22T00:00:00Z","Origin":"","DKMSInstanceId":"","Arn":"","Aliases":["alias/x","alias/y"],"Versions":[{"KeyVersionId":"v-1","CreationDate":"d","LastUsedDate":"e"}],"Tags":{"a":"b"},"Policy":{"Version":"1"}}`},
	{"key list", map[string]string{"ListKeys 1": `{"Keys":{"Key":` + allowKey + `},"TotalCount":101}`, "ListKeys 2": `{"Keys":{"Key":[]},"TotalCount":101}`,
		"ListAliases": `{"Aliases":{"Alias":[{"AliasName":"alias/x","KeyId":"k-1"},{"AliasName":"alias/z","KeyId":"k-9"}]},"TotalCount":2}`, "DescribeKey": aKey},
		[]string{"ListKeys PageNumber=1 PageSize=100", "ListKeys PageNumber=2 PageSize=100", "ListAliases PageNumber=1 PageSize=100", "DescribeKey KeyId=k-1"},
		"KeyId  Aliases  KeySpec  KeyState  CreationDate\nk-1    alias/x  EC_P256  Enabled   2026-11-22\n",
		`[{"Aliases":["alias/x"],` + keyJSON[1:] + `]`},
	{"key list --spec EC_SM2 --state Disabled", map[string]string{"ListKeys": `{"Keys":{"Key":[]},"TotalCount":0}`, "ListAliases": `{}`},
		[]string{`ListKeys Filters=[{"Key":"KeySpec","Values":["EC_SM2"]},{"Key":"KeyState","Values":["Disabled"]}] PageNumber=1 PageSize=100`, "ListAliases PageNumber=1 PageSize=100"},
		"KeyId  Aliases  KeySpec  KeyState  CreationDate\n", `[]`},
	{"key enable k", nil, []string{"EnableKey KeyId=k"}, "Key k is enabled.\n", `{"RequestId":"r-1"}`},
	{"key disable k", nil, []string{"DisableKey KeyId=k"}, "Key k is disabled.\n", `{"RequestId":"r-1"}`},
	{"key schedule-deletion k --days 30", nil,
		[]string{"ScheduleKeyDeletion KeyId=k PendingWindowInDays=30"}, "Key k will be deleted in 30 days. To keep it: kmsgate key cancel-deletion k\n", `{"RequestId":"r-1"}`},
	{"key cancel-deletion k", nil, []string{"CancelKeyDeletion KeyId=k"}, "Key k is kept and enabled.\n", `{"RequestId":"r-1"}`},
	{"key update k --description x", nil, []string{"UpdateKeyDescription Description=x KeyId=k"}, "The description of key k was changed.\n", `{"RequestId":"r-1"}`},
	{"key protect k --description x", nil,
		[]string{"SetDeletionProtection DeletionProtectionDescription=x EnableDeletionProtection=true KeyId=k"}, "Key k is protected from deletion.\n", `{"RequestId":"r-1"}`},
	{"key unprotect k", nil,
		[]string{"SetDeletionProtection EnableDeletionProtection=false KeyId=k"}, "Key k is no longer protected from deletion.\n", `{"RequestId":"r-1"}`},
	{"key public-key k", map[string]string{"ListKeyVersions": `{"KeyVersions":{"KeyVersion":[{"KeyVersionId":"v-1"},{"KeyVersionId":"v-2"}]},"TotalCount":2}`, "GetPublicKey": `{"KeyId":"k","KeyVersionId":"v-2","PublicKey":"PEM\nmore\n"}`},
		[]string{"ListKeyVersions KeyId=k PageNumber=1 PageSize=100", "GetPublicKey KeyId=k KeyVersionId=v-2"},
		"PEM\nmore\n", `{"KeyId":"k","KeyVersionId":"v-2","PublicKey":"PEM\nmore\n"}`},
	{"key public-key k --version v-1", map[string]string{"GetPublicKey": `{"KeyId":"k","KeyVersionId":"v-1","PublicKey":"PEM"}`},
		[]string{"GetPublicKey KeyId=k KeyVersionId=v-1"}, "PEM\n", `{"KeyId":"k","KeyVersionId":"v-1","PublicKey":"PEM"}`},
	{"key create-version k", map[string]string{"CreateKeyVersion": `{"KeyVersion":{"KeyVersionId":"v-1","KeyId":"k-1","CreationDate":"d"}}`},
		[]string{"CreateKeyVersion KeyId=k"},
		"KeyVersionId  v-1\nCreationDate  d\nKeyId         k-1\n", `{"KeyVersionId":"v-1","CreationDate":"d","KeyId":"k-1"}`},
	{"key policy show k", map[string]string{"GetKeyPolicy": `{"Policy":"{\"Version\":\"1\"}"}`},
		[]string{"GetKeyPolicy KeyId=k"}, "{\n  \"Version\": \"1\"\n}\n", `{"Policy":"{\"Version\":\"1\"}"}`},
	{"key policy update k --file {FILE} --yes", nil, []string{"SetKeyPolicy KeyId=k Policy=" + aDocument}, "The policy of key k was replaced.\n", `{"RequestId":"r-1"}`},
	{"key tag k a=b c=d=e", nil,
		[]string{`TagResource KeyId=k Tags=[{"TagKey":"a","TagValue":"b"},{"TagKey":"c","TagValue":"d=e"}]`}, "Key k is tagged.\n", `{"RequestId":"r-1"}`},
	{"key untag k a c", nil, []string{`UntagResource KeyId=k TagKeys=["a","c"]`}, "The tags were removed from key k.\n", `{"RequestId":"r-1"}`},
	{"alias create alias/x --key k", nil, []string{"CreateAlias AliasName=alias/x KeyId=k"}, "alias/x names key k.\n", `{"RequestId":"r-1"}`},
	{"alias update alias/x --key k --yes", nil, []string{"UpdateAlias AliasName=alias/x KeyId=k"}, "alias/x names key k.\n", `{"RequestId":"r-1"}`},
	{"alias delete alias/x --yes", nil, []string{"DeleteAlias AliasName=alias/x"}, "alias/x was deleted.\n", `{"RequestId":"r-1"}`},
	{"alias list", map[string]string{"ListAliases": `{"Aliases":{"Alias":[{"AliasArn":"arn","AliasName":"alias/x","KeyId":"k"}]},"TotalCount":1}`},
		[]string{"ListAliases PageNumber=1 PageSize=100"}, "AliasName  KeyId  AliasArn\nalias/x    k      arn\n", `[{"AliasName":"alias/x","KeyId":"k","AliasArn":"arn"}]`},
	{"alias list --key k", map[string]string{"ListAliasesByKeyId": `{"Aliases":{"Alias":[]},"TotalCount":0}`},
		[]string{"ListAliasesByKeyId KeyId=k PageNumber=1 PageSize=100"}, "AliasName  KeyId  AliasArn\n", `[]`},

	{"aap create app --permission p --permission q --description x", map[string]string{"CreateApplicationAccessPoint": aAccessPoint},
		[]string{`CreateApplicationAccessPoint Description=x Name=app Policies=["p","q"]`}, aapTable, aapJSON},
	{"aap list", map[string]string{"ListApplicationAccessPoints": `{"ApplicationAccessPoints":{"ApplicationAccessPoint":[{"Name":"app","AuthenticationMethod":"ClientKey"}]},"TotalCount":1}`},
		[]string{"ListApplicationAccessPoints PageNumber=1 PageSize=100"}, "Name  AuthenticationMethod\napp   ClientKey\n", `[{"Name":"app","AuthenticationMethod":"ClientKey"}]`},
	{"aap show app", map[string]string{"DescribeApplicationAccessPoint": aAccessPoint}, []string{"DescribeApplicationAccessPoint Name=app"}, aapTable, aapJSON},
	{"aap update app --permission p", nil, []string{`UpdateApplicationAccessPoint Name=app Policies=["p"]`}, "Access point app was updated.\n", `{"RequestId":"r-1"}`},
	{"aap delete app --yes", nil, []string{"DeleteApplicationAccessPoint Name=app"}, "Access point app and its client keys were deleted.\n", `{"RequestId":"r-1"}`},
	{"aap permission create p --key alias/x --key ab* --rule r --rule s --description x",
		map[string]string{"DescribeKey": aKey, "CreatePolicy": `{"Name":"p","Description":"x","Permissions":"[\"P\"]","Resources":"[\"key/k-1\",\"key/ab*\"]","AccessControlRules":"{\"NetworkRules\":[\"r\",\"s\"]}","KmsInstance":"i","Arn":"a"}`},
		[]string{"DescribeKey KeyId=alias/x", `CreatePolicy AccessControlRules={"NetworkRules":["r","s"]} Description=x Name=p Permissions=["RbacPermission/Template/CryptoServiceKeyUser"] Resources=["key/k-1","key/ab*"]`},
		"Name                p\nDescription         x\nPermissions         P\nResources           key/k-1, key/ab*\nAccessControlRules  r, s\nKmsInstance         i\nArn                 a\n",
		`{"Name":"p","Description":"x","Permissions":["P"],"Resources":["key/k-1","key/ab*"],"AccessControlRules":{"NetworkRules":["r","s"]},"KmsInstance":"i","Arn":"a"}`},
	{"aap permission create p --all-keys", map[string]string{"CreatePolicy": `{"Name":"p","Permissions":"[]","Resources":"[\"key/*\"]","AccessControlRules":"{\"NetworkRules\":[]}"}`},
		[]string{`CreatePolicy Name=p Permissions=["RbacPermission/Template/CryptoServiceKeyUser"] Resources=["key/*"]`},
		"Name       p\nResources  key/*\n", `{"Name":"p","Description":"","Permissions":[],"Resources":["key/*"],"AccessControlRules":{"NetworkRules":[]},"KmsInstance":"","Arn":""}`},
	{"aap permission list", map[string]string{"ListPolicies": `{"Policies":{"Policy":[{"Name":"p"}]},"TotalCount":1}`},
		[]string{"ListPolicies PageNumber=1 PageSize=100"}, "Name\np\n", `[{"Name":"p"}]`},
	{"aap permission show p", map[string]string{"DescribePolicy": `{"Name":"p","Permissions":["P"],"Resources":["key/*"],"AccessControlRules":"{\"NetworkRules\":[\"r\"]}"}`},
		[]string{"DescribePolicy Name=p"}, "Name                p\nPermissions         P\nResources           key/*\nAccessControlRules  r\n",
		`{"Name":"p","Description":"","Permissions":["P"],"Resources":["key/*"],"AccessControlRules":{"NetworkRules":["r"]},"KmsInstance":"","Arn":""}`},
	{"aap permission update p --key k --any-source", map[string]string{"DescribeKey": aKey},
		[]string{"DescribeKey KeyId=k", `UpdatePolicy AccessControlRules={"NetworkRules":[]} Name=p Resources=["key/k-1"]`}, "Permission policy p was updated.\n", `{"RequestId":"r-1"}`},
	{"aap permission update p --rule r", nil, []string{`UpdatePolicy AccessControlRules={"NetworkRules":["r"]} Name=p`}, "Permission policy p was updated.\n", `{"RequestId":"r-1"}`},
	{"aap permission delete p --yes", nil, []string{"DeletePolicy Name=p"}, "Permission policy p was deleted.\n", `{"RequestId":"r-1"}`},
	{"aap rule create r --source 192.0.2.0/24 --source ::1 --description x", map[string]string{"CreateNetworkRule": `{"Name":"r","Description":"x","Type":"Private","SourcePrivateIp":"[\"192.0.2.0/24\",\"::1\"]","Arn":"a"}`},
		[]string{`CreateNetworkRule Description=x Name=r SourcePrivateIp=["192.0.2.0/24","::1"] Type=Private`},
		"Name             r\nDescription      x\nType             Private\nSourcePrivateIp  192.0.2.0/24, ::1\nArn              a\n",
		`{"Name":"r","Description":"x","Type":"Private","SourcePrivateIp":["192.0.2.0/24","::1"],"Arn":"a"}`},
	{"aap rule list", map[string]string{"ListNetworkRules": `{"NetworkRules":{"NetworkRule":[{"Name":"r","Type":"Private"}]},"TotalCount":1}`},
		[]string{"ListNetworkRules PageNumber=1 PageSize=100"}, "Name  Type\nr     Private\n", `[{"Name":"r","Type":"Private"}]`},
	{"aap rule show r", map[string]string{"DescribeNetworkRule": `{"Type":"Private","SourcePrivateIp":"[\"::1\"]","Arn":"a"}`},
		[]string{"DescribeNetworkRule Name=r"}, "Type             Private\nSourcePrivateIp  ::1\nArn              a\n", `{"Description":"","Type":"Private","SourcePrivateIp":["::1"],"Arn":"a"}`},
	{"aap rule update r --source ::1", nil, []string{`UpdateNetworkRule Name=r SourcePrivateIp=["::1"]`}, "Network rule r was updated.\n", `{"RequestId":"r-1"}`},
	{"aap rule delete r --yes", nil, []string{"DeleteNetworkRule Name=r"}, "Network rule r was deleted.\n", `{"RequestId":"r-1"}`},

	{"clientkey create --aap app --out {DIR} --password-file {FILE} --not-before x --not-after y", map[string]string{"CreateClientKey": aClientKey},
		[]string{"CreateClientKey AapName=app NotAfter=y NotBefore=x Password=" + aDocument},
		"ClientKeyId  KAAP.1\nNotBefore    b\nNotAfter     a\nFile         {DIR}/clientKey_KAAP.1.json\n",
		`{"ClientKeyId":"KAAP.1","NotBefore":"b","NotAfter":"a","File":"{DIR}/clientKey_KAAP.1.json","PasswordFile":""}`},
	{"clientkey list --aap app", map[string]string{"ListClientKeys": `{"ClientKeys":[` + aClientKey + `]}`},
		[]string{"ListClientKeys AapName=app"}, "ClientKeyId  AapName  CreateTime  NotBefore  NotAfter\nKAAP.1       app      c           b          a\n",
		`[{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a"}]`},
	{"clientkey show KAAP.1", map[string]string{"GetClientKey": aClientKey}, []string{"GetClientKey ClientKeyId=KAAP.1"}, "PEM\n",
		`{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a","KeyAlgorithm":"","KeyOrigin":"","PublicKeyData":"PEM\n"}`},
	{"clientkey delete KAAP.1 --yes", nil, []string{"DeleteClientKey ClientKeyId=KAAP.1"}, "Client key KAAP.1 was deleted.\n", `{"RequestId":"r-1"}`},

	{"token info", map[string]string{"DescribeToken": aSurvey}, []string{"DescribeToken"},
		"Module    /m.so\n          an HSM, Maker, version 1.2, PKCS#11 2.40\n" +
			"Token     label \"bank\", serial number 7, slot 3\n          HSM9, Maker, hardware 1.0, firmware 2.0\n" +
			"Flags     RNG, LOGIN_REQUIRED\nSessions  no known limit\nSealing   AES-GCM in the token\nSigning   with the token's own objects\n\n" +
			"KeySpec   Offered  Where         Generate   Sign     Reason\nRSA_2048  yes      in the token  250.00 ms  1.50 ms  \nEC_P256K  no                                         no such curve\n",
		aSurvey[len(`{"Survey":`) : len(aSurvey)-1]},
	{"token info --mechanisms", map[string]string{"DescribeToken": `{"Survey":{"Sealing":"","Copies":true,"Token":{"MaxSessions":5},"Mechanisms":[{"ID":1,"Name":"CKM_RSA_PKCS","MinKeySize":512,"MaxKeySize":4096,"Flags":["SIGN","VERIFY"]}],"Offers":[]}}`}, []string{"DescribeToken"},
		"Module    \n          , , version , PKCS#11 \nToken     label \"\", serial number , slot 0\n          , , hardware , firmware \nFlags     \nSessions  5\n" +
			"Sealing   none: kmsgate cannot use this token, since it has neither CKM_AES_GCM nor CKM_SHA256_HMAC\nSigning   with session copies of the objects, which is faster here\n\n" +
			"KeySpec  Offered  Where  Generate  Sign  Reason\n\nMechanism     MinKeySize  MaxKeySize  Flags\nCKM_RSA_PKCS  512         4096        SIGN, VERIFY\n",
		`{"Module":{"Path":"","Manufacturer":"","Description":"","Version":"","Cryptoki":""},"Token":{"Slot":0,"Label":"","Serial":"","Manufacturer":"","Model":"","Hardware":"","Firmware":"","Flags":null,"MaxSessions":5},"Mechanisms":[{"ID":1,"Name":"CKM_RSA_PKCS","MinKeySize":512,"MaxKeySize":4096,"Flags":["SIGN","VERIFY"]}],"Offers":[],"Sealing":"","Copies":true}`},
	{"token list", map[string]string{"ListTokenObjects": `{"Objects":{"Object":[{"Handle":7,"Class":"private key","KeySpec":"EC_P256","Label":"kmsgate","ObjectId":"ab","Use":"key version","KeyId":"k","KeyVersionId":"v","KeyState":"Enabled","Aliases":{"Alias":["alias/x","alias/y"]}}]},"Deviations":{"Deviation":[{"Use":"key version","KeyId":"l","KeyVersionId":"w","KeyState":"Disabled","KeySpec":"EC_P256","Aliases":{"Alias":[]},"PrivateKeys":0}]}}`},
		[]string{"ListTokenObjects"},
		"Use          Class        KeySpec  KeyId  KeyVersionId  KeyState  Aliases           Label    ObjectId  Handle  OtherPublicKey\nkey version  private key  EC_P256  k      v             Enabled   alias/x, alias/y  kmsgate  ab        7       false\n\n" +
			"The token does not hold exactly one private key of these records (kmsgate doctor says what to do):\n\n" +
			"Use          KeyId  KeyVersionId  KeyState  KeySpec  Aliases  PrivateKeys\nkey version  l      w             Disabled  EC_P256           0\n",
		`{"Deviations":[{"Use":"key version","KeyId":"l","KeyVersionId":"w","KeyState":"Disabled","KeySpec":"EC_P256","Aliases":[],"PrivateKeys":0}],"Objects":[{"Use":"key version","Class":"private key","KeySpec":"EC_P256","KeyId":"k","KeyVersionId":"v","KeyState":"Enabled","Aliases":["alias/x","alias/y"],"Label":"kmsgate","ObjectId":"ab","Handle":7,"OtherPublicKey":false}]}`},
	{"token test --count 3", map[string]string{"ListKeys": `{"Keys":{"Key":[{"KeyId":"k"}]},"TotalCount":1}`, "ListKeyVersions": `{"KeyVersions":{"KeyVersion":[{"KeyId":"k","KeyVersionId":"v"}]},"TotalCount":1}`,
		"TestKeyVersion": `{"KeyId":"k","KeyVersionId":"v","KeySpec":"EC_P256","Signatures":3,"MinMilliseconds":1.5,"MedianMilliseconds":2,"MaxMilliseconds":2.25}`},
		[]string{"ListKeys PageNumber=1 PageSize=100", "ListKeyVersions KeyId=k PageNumber=1 PageSize=100", "TestKeyVersion Count=3 KeyId=k KeyVersionId=v"},
		"KeyId  KeyVersionId  KeySpec  Signatures  MinMilliseconds  MedianMilliseconds  MaxMilliseconds  Error\nk      v             EC_P256  3           1.5              2                   2.25             \n",
		`[{"KeyId":"k","KeyVersionId":"v","KeySpec":"EC_P256","Signatures":3,"MinMilliseconds":1.5,"MedianMilliseconds":2,"MaxMilliseconds":2.25,"Error":""}]`},

	{"audit head", map[string]string{"GetAuditHead": `{"Head":"abc"}`}, []string{"GetAuditHead"}, "abc\n", `{"Head":"abc"}`},
}

const aSurvey = `{"Survey":{"Module":{"Path":"/m.so","Manufacturer":"Maker","Description":"an HSM","Version":"1.2","Cryptoki":"2.40"},"Token":{"Slot":3,"Label":"bank","Serial":"7","Manufacturer":"Maker","Model":"HSM9","Hardware":"1.0","Firmware":"2.0","Flags":["RNG","LOGIN_REQUIRED"],"MaxSessions":0},"Mechanisms":[],"Offers":[{"KeySpec":"RSA_2048","Offered":true,"Software":false,"Reason":"","GenerateNanoseconds":250000000,"SignNanoseconds":1500000},{"KeySpec":"EC_P256K","Offered":false,"Software":false,"Reason":"no such curve","GenerateNanoseconds":0,"SignNanoseconds":0}],"Sealing":"AES-GCM in the token","Copies":false}}`

const (
	aAccessPoint = `{"Name":"app","Description":"x","Policies":"[\"p\",\"q\"]","AuthenticationMethod":"ClientKey","Arn":"a"}`
	aapTable     = "Name                  app\nDescription           x\nPolicies              p, q\nAuthenticationMethod  ClientKey\nArn                   a\n"
	aapJSON      = `{"Name":"app","Description":"x","Policies":["p","q"],"AuthenticationMethod":"ClientKey","Arn":"a"}`

	aClientKey = `{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a","PrivateKeyData":"c2VjcmV0","PublicKeyData":"PEM\n"}`
)

// aKey as a table and as JSON.
const (
	keyTable = "KeyId         k-1\nKeySpec       EC_P256\nKeyState      Enabled\nDescription   a\\x1b[31mb\nCreationDate  2026-11-22T00:00:00Z\n"
	keyJSON  = `{"KeyId":"k-1","KeySpec":"EC_P256","KeyUsage":"","KeyState":"Enabled","DeleteDate":"","Description":"a\u001b[31mb","ProtectionLevel":"","DeletionProtection":"","DeletionProtectionDescription":"","Creator":"","CreationDate":"2026-11-22T00:00:00Z","Origin":"","DKMSInstanceId":"","Arn":""}`
)

// nextSteps are what command lines print for people on the standard error.
var nextSteps = map[string]string{
	"accesskey create --user alice": "The secret is not shown again: keep it where only the user's programs can read it.\n",
	"clientkey create --aap app --out {DIR} --password-file {FILE} --not-before x --not-after y": "Give the files to the program only, and send the password and the key by different ways.\n",
}

func TestCommandLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "document.json")
	if err := os.WriteFile(file, []byte(aDocument), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range commandLines {
		for output, want := range map[string]string{cli.OutputTable: c.table, cli.OutputJSON: c.json} {
			dir := t.TempDir()
			args := strings.Fields(strings.NewReplacer("{FILE}", file, "{DIR}", dir).Replace(c.line))
			want = strings.ReplaceAll(want, "{DIR}", dir)
			g := &fakeGateway{answers: c.answers}
			got, stderr, err := g.kmsgate("{}", append(args, "-o", output)...)
			wantErr := ""
			if output == cli.OutputTable {
				wantErr = nextSteps[c.line]
			}
			if err != nil || stderr != wantErr || g.dialed != 1 || g.closed != 1 {
				t.Errorf("%s -o %s: %v, stderr %q, dialed %d times, closed %d", c.line, output, err, stderr, g.dialed, g.closed)
			}
			if diff := cmp.Diff(c.calls, g.calls); diff != "" {
				t.Errorf("%s -o %s: the gateway was asked for (-want +got):\n%s", c.line, output, diff)
			}
			if output == cli.OutputJSON {
				got, want = compact(t, got), want+"\n"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s -o %s: it printed (-want +got):\n%s", c.line, output, diff)
			}
		}
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Errorf("%q is not JSON: %v", text, err)
	}
	return b.String() + "\n"
}

// TestEveryCommand walks all commands. Each has what a newcomer needs, and each that asks a
// gateway is in commandLines.
func TestEveryCommand(t *testing.T) {
	// Other tests run these, or they read files only.
	elsewhere := []string{"audit verify", "audit tail", "audit search", "audit export", "doctor", "backup", "restore", "dev", "init", "serve", "config check", "config example", "version", "sign", "verify", "public-key", "csr", "cms", "batch", "batch verify"}
	var walk func(path string, cmd *cobra.Command)
	walk = func(path string, cmd *cobra.Command) {
		if cmd.HasSubCommands() {
			for _, sub := range cmd.Commands() {
				walk(strings.TrimSpace(path+" "+sub.Name()), sub)
			}
		}
		if cmd.HasSubCommands() && cmd.Use == cmd.Name() {
			return // it takes nothing itself
		}
		if strings.HasPrefix(path, "completion ") || path == "help" {
			return // cobra's
		}
		if cmd.Short == "" || cmd.Example == "" || cmd.Args == nil || cmd.InheritedFlags().Lookup("output") == nil && cmd.Flag("output") == nil {
			t.Errorf("%s lacks Short, Example, Args or -o", path)
		}
		if !strings.Contains(cmd.Example, "kmsgate "+path) {
			t.Errorf("the example of %s does not show it:\n%s", path, cmd.Example)
		}
		for line := range strings.Lines(cmd.Long) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > 90 {
				t.Errorf("the help of %s has a line of more than 90 columns: %s", path, line)
			}
		}
		if slices.Contains(elsewhere, path) {
			return
		}
		if cmd.Flag("socket") == nil {
			t.Errorf("%s has no flags that address a gateway", path)
		}
		if !slices.ContainsFunc(commandLines, func(c commandLine) bool { return strings.HasPrefix(c.line+" ", path+" ") }) {
			t.Errorf("no test runs %s", path)
		}
	}
	walk("", rootCommand(new(fakeGateway)))
}

// TestVerbs holds the names of commands to one vocabulary.
func TestVerbs(t *testing.T) {
	verbs := strings.Fields("create list show update delete enable disable " + // of every family
		"schedule-deletion cancel-deletion protect unprotect public-key create-version tag untag attach detach simulate reset " +
		"head verify tail search export check example info test") // of one
	for _, family := range rootCommand(new(fakeGateway)).Commands() {
		if family.Name() == "completion" {
			continue // cobra's
		}
		for _, cmd := range family.Commands() {
			if !cmd.HasSubCommands() && !slices.Contains(verbs, cmd.Name()) {
				t.Errorf("%s: %q is not one of the verbs %q", cmd.CommandPath(), cmd.Name(), verbs)
			}
		}
	}
}

// TestMistakes makes mistakes on the command line. Each is explained in one line, its exit
// status is that of usage errors, and no gateway is asked.
func TestMistakes(t *testing.T) {
	large, broken := filepath.Join(t.TempDir(), "large.json"), filepath.Join(t.TempDir(), "broken.json")
	if err := errors.Join(os.WriteFile(large, make([]byte, cli.MaxDocument+1), 0o600), os.WriteFile(broken, []byte("{\n  \"Version\": 1,\n}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	mistakes(t, map[string]string{
		"user create":                                     "NAME is missing: usage: kmsgate user create NAME [flags]",
		"user create alice bob":                           `unexpected argument "bob": usage: kmsgate user create NAME [flags]`,
		"user list all":                                   `unexpected argument "all": usage: kmsgate user list [flags]`,
		"user creat alice":                                `unknown command "kmsgate user creat": did you mean create? (see kmsgate user --help)`,
		"user creat alice --description":                  `unknown command "kmsgate user creat": did you mean create? (see kmsgate user --help)`,
		"sing --file x":                                   `unknown command "kmsgate sing": did you mean sign? (see kmsgate --help)`,
		"aliass list":                                     `unknown command "kmsgate aliass": did you mean alias? (see kmsgate --help)`,
		"user list -o yaml":                               `--output "yaml": must be one of table, json`,
		"user list --ouput json":                          "unknown flag --ouput: did you mean --output? (see kmsgate user list --help)",
		"user list --outputformat json":                   "unknown flag --outputformat (see kmsgate user list --help)",
		"user list -x":                                    "unknown flag -x (see kmsgate user list --help)",
		"user create alice --description":                 "--description needs a value",
		"user delete alice --yes=perhaps":                 `--yes "perhaps": must be one of true, false`,
		"accesskey create":                                "--user is missing (see kmsgate accesskey create --help)",
		"policy attach p":                                 "--user is missing (see kmsgate policy attach --help)",
		"policy create p --file /nonexistent":             "open /nonexistent: no such file or directory",
		"policy create p --file " + large:                 large + " is larger than 64 KiB",
		"policy create p --file -":                        "the standard input is empty",
		"policy create p --file " + broken:                broken + ":3:1: not JSON: invalid character '}' looking for beginning of object key string",
		"key create":                                      "--spec is missing: it is one of RSA_2048, RSA_3072, RSA_4096, EC_P256, EC_P256K, EC_SM2",
		"key create --spec EC_P512":                       `--spec "EC_P512": must be one of RSA_2048, RSA_3072, RSA_4096, EC_P256, EC_P256K, EC_SM2`,
		"key create --spec EC_P256 --tag a":               `tag "a" is not KEY=VALUE`,
		"key create --spec EC_P256 --alias x":             `400 InvalidParameter: The specified parameter "AliasName" is not valid: it must begin with alias/ and have at least one more character.`,
		"key list --state Gone":                           `--state "Gone": must be one of Enabled, Disabled, PendingDeletion`,
		"key tag k":                                       "KEY=VALUE is missing: usage: kmsgate key tag KEY KEY=VALUE… [flags]",
		"key tag k a":                                     `tag "a" is not KEY=VALUE`,
		"token test --count 0":                            `--count "0": must be 1 to 100`,
		"token test --count many":                         `--count "many": must be 1 to 100`,
		"token info extra":                                `unexpected argument "extra": usage: kmsgate token info [flags]`,
		"token info --module m.so":                        "--module needs --pin-file: give both or neither",
		"token info --label a --serial b":                 "--label and --serial exclude each other: give one of them",
		"policy simulate --user a --action AsymetricSign": `no operation is called "AsymetricSign": did you mean AsymmetricSign?`,
		"key describe k":                                  `unknown command "kmsgate key describe": did you mean show? (see kmsgate key --help)`,
		"user rm alice":                                   `unknown command "kmsgate user rm": did you mean delete? (see kmsgate user --help)`,
		"completion tcsh":                                 `unknown command "kmsgate completion tcsh": did you mean bash or fish or zsh? (see kmsgate completion --help)`,
		"completion bash x":                               `unexpected argument "x": usage: kmsgate completion bash`,
		"help nonsense":                                   `unknown command "kmsgate nonsense" (see kmsgate --help)`,
		"help key nonsense":                               `unknown command "kmsgate key nonsense" (see kmsgate key --help)`,
		"key list ---x":                                   `malformed flag "---x" (see kmsgate key list --help)`,
		"audit search f --since 2026-11-02 --until 2026-11-01":                                              "--since 2026-11-02 is not before --until 2026-11-01",
		"backup /dev/full --recipient age1xq33d62dfm0c6ypxy7cwtepe5k8kx2x3ya7nx3uzueka39nq6fzscxus4z --yes": `"/dev/full" is not a regular file: give another name, or - for the standard output`,
		"quota update --user a --quota b --qps=":                                                            "--qps is empty: give a value, or leave it out",
		"restore f --target= --identity i":                                                                  "--target is empty: give a value, or leave it out",
		"user list --socket=":                                                                               "--socket is empty: give a value, or leave it out",
		"accesskey create --user a --user b":                                                                `--user "b": given twice: give it once`,
		"token info --module m --pin-file p":                                                                "--module needs --label or --serial",
		"token info --module m --pin-file p --label l --user-type admin":                                    `--user-type "admin": must be user or crypto_user`,
		"dev --listen :8443":                                                                                `--listen ":8443": must be host:port, such as 127.0.0.1:8443, or 0.0.0.0:8443 for all addresses`,
		"key untag":                                                                                         "KEY is missing: usage: kmsgate key untag KEY TAGKEY… [flags]",
		"key schedule-deletion k":                                                                           "--days is missing (see kmsgate key schedule-deletion --help)",
		"quota update --user alice --quota asymmetric":                                                      "--qps is missing (see kmsgate quota update --help)",
		"backup":                            "FILE is missing: usage: kmsgate backup FILE [flags]",
		"backup f":                          "one of --recipient, --passphrase-file is missing (see kmsgate backup --help)",
		"restore f":                         "one of --identity, --passphrase-file is missing (see kmsgate restore --help)",
		"restore f --identity i":            "--target is missing (see kmsgate restore --help)",
		"restore f --target d":              "one of --identity, --passphrase-file is missing (see kmsgate restore --help)",
		"restore f --target d --identity i": "whose backup is it? Anyone who knows the recipient can make one: give --audit-public-key FILE, or --unverified if it never left your hands",
		"config check":                      "--config is missing (see kmsgate config check --help)",
		"config check f":                    `unexpected argument "f": usage: kmsgate config check --config FILE [flags]`,
		"serve":                             "--config is missing (see kmsgate serve --help)",
		"dev extra":                         `unexpected argument "extra": usage: kmsgate dev [flags]`,
		"audit tail -n many":                `--lines "many": must be a whole number`,
		"audit tail -n -1":                  "--lines -1: must be 0 or more",
		"audit tail a b":                    `unexpected argument "b": usage: kmsgate audit tail [FILE] [flags]`,
		"audit search f --since yesterday":  `--since: "yesterday" is neither a time, such as 2026-11-22T08:00:00Z or 2026-11-22, nor a duration before now, such as 24h`,
	})
}

// mistakes runs command lines, and wants each to be refused with a message.
func mistakes(t *testing.T, lines map[string]string) {
	t.Helper()
	for line, want := range lines {
		g := new(fakeGateway)
		stdout, _, err := g.kmsgate("", strings.Fields(line)...)
		if err == nil || err.Error() != want || cli.ExitStatus(err) != cli.ExitUsage {
			t.Errorf("%s: got %v (exit status %d), want %s", line, err, cli.ExitStatus(err), want)
		}
		if stdout != "" || g.dialed > 0 {
			t.Errorf("%s: printed %q, dialed %d times", line, stdout, g.dialed)
		}
	}
}

// TestRefused passes on what the gateway says.
func TestRefused(t *testing.T) {
	refusal := errors.New("409 Rejected.Disabled: The key state is Disabled.")
	for _, c := range commandLines {
		g := &fakeGateway{answers: c.answers, refuse: make(map[string]error)}
		action, _, _ := strings.Cut(c.calls[0], " ")
		g.refuse[action] = refusal
		args := strings.Fields(strings.NewReplacer("{FILE}", "-", "{DIR}", t.TempDir()).Replace(c.line))
		stdout, _, err := g.kmsgate(aDocument, args...)
		if !errors.Is(err, refusal) || err.Error() != refusal.Error() || stdout != "" || g.closed != 1 {
			t.Errorf("%s: %v, printed %q, closed %d times", c.line, err, stdout, g.closed)
		}
	}
}

// TestCreateWithAlias: no key is created for an alias that is taken or refused. A key whose
// alias was taken in between is shown.
func TestCreateWithAlias(t *testing.T) {
	for _, c := range []struct {
		name   string
		refuse map[string]error
		calls  []string
		stdout string
		err    error
		text   string
	}{
		{"free", map[string]error{"DescribeKey": kms.ErrAliasNotFound},
			[]string{"DescribeKey KeyId=alias/x", "CreateKey KeySpec=EC_P256", "CreateAlias AliasName=alias/x KeyId=k-1"}, keyTable, nil, "<nil>"},
		{"taken", nil, []string{"DescribeKey KeyId=alias/x"}, "", kms.ErrAliasExists, "no key was created: alias/x already names key k-1"},
		{"invalid", map[string]error{"DescribeKey": kms.ErrInvalidParameter}, []string{"DescribeKey KeyId=alias/x"}, "", kms.ErrInvalidParameter, "no key was created: alias \"alias/x\": "},
		{"taken in between", map[string]error{"DescribeKey": kms.ErrAliasNotFound, "CreateAlias": kms.ErrAliasExists},
			[]string{"DescribeKey KeyId=alias/x", "CreateKey KeySpec=EC_P256", "CreateAlias AliasName=alias/x KeyId=k-1"}, keyTable, kms.ErrAliasExists,
			"the key was created, but its alias was not: run kmsgate alias create ALIAS --key k-1"},
	} {
		g := &fakeGateway{answers: map[string]string{"CreateKey": aKey, "DescribeKey": aKey}, refuse: c.refuse}
		stdout, _, err := g.kmsgate("", "key", "create", "--spec", "EC_P256", "--alias", "alias/x")
		if !errors.Is(err, c.err) || !strings.HasPrefix(fmt.Sprint(err), c.text) || stdout != c.stdout {
			t.Errorf("%s: got %v, printed %q", c.name, err, stdout)
		}
		if diff := cmp.Diff(c.calls, g.calls); diff != "" {
			t.Errorf("%s: the gateway was asked for (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestQuestions asks before what cannot be undone: without a yes, nothing is changed.
func TestQuestions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "document.json")
	if err := os.WriteFile(file, []byte(aDocument), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"ListUsers":      `{"Users":{"User":[{"UserName":"alice"}]}}`,
		"ListAccessKeys": `{"AccessKeys":{"AccessKey":[{"AccessKeyId":"A","LastUsedDate":"e"},{"AccessKeyId":"B"}]}}`,
		"ListClientKeys": `{"ClientKeys":[{"ClientKeyId":"KAAP.1","CreateTime":"c"}]}`,
		"DescribeKey":    aKey,
	}
	for line, question := range map[string]string{
		"user delete alice":                 "This deletes user alice\n  - and access key A, last used e\n  - and access key B, last used never\n",
		"accesskey delete A":                "This deletes access key A. The gateway then refuses programs that still use it.\n",
		"clientkey delete KAAP.1":           "This deletes client key KAAP.1. The gateway then refuses programs that still use it.\n",
		"policy delete p":                   "This deletes policy p and its document.\n",
		"policy update p --file {FILE}":     "This replaces the document of policy p, which is lost (kmsgate policy show prints it).\n",
		"key policy update k --file {FILE}": "This replaces the policy of key k, which is lost (kmsgate key policy show prints it).\n",
		"alias delete alias/x":              "This deletes alias/x. The gateway then refuses programs that still use it.\n",
		"alias update alias/x --key k":      "alias/x now names key k-1. After this change, programs that use the alias get signatures of k.\n",
		"aap delete app":                    "This deletes access point app\n  - and client key KAAP.1, created c\n",
		"aap permission delete p":           "This deletes permission policy p. Client keys may no longer do what only it permits.\n",
		"aap rule delete r":                 "This deletes network rule r. A permission policy that names no other rule then permits no address.\n",
	} {
		for answer, agreed := range map[string]bool{"y\n": true, "n\n": false, "": false} {
			g := &fakeGateway{answers: answers}
			stdout, stderr, err := g.kmsgate(answer, strings.Fields(strings.ReplaceAll(line, "{FILE}", file))...)
			want := question + "Continue? [y/N] "
			if answer == "" {
				want += "\n" // the input ends without a line break
			}
			if stderr != want {
				t.Errorf("%s, answered %q: asked %q, want %q", line, answer, stderr, want)
			}
			changed := slices.ContainsFunc(g.calls, func(call string) bool {
				return strings.HasPrefix(call, "Delete") || strings.HasPrefix(call, "Update") || strings.HasPrefix(call, "Set")
			})
			if changed != agreed || errors.Is(err, cli.ErrNotConfirmed) == agreed || (stdout != "") != agreed {
				t.Errorf("%s, answered %q: got %v, printed %q, called %q", line, answer, err, stdout, g.calls)
			}
		}
	}
	g := &fakeGateway{answers: answers}
	if _, stderr, err := g.kmsgate("y\n", "user", "delete", "bob"); !errors.Is(err, kms.ErrUserNotFound) || stderr != "" {
		t.Errorf("deleting a user who does not exist: got %v, asked %q", err, stderr)
	}
}

// TestUnmatchedActions: a policy with an action that does not exist is accepted, with a
// warning.
func TestUnmatchedActions(t *testing.T) {
	const document = `{"Version":"1","Statement":[{"Effect":"Allow","Action":["kms:AsymetricSign","kms:Get*","oss:GetObject"],"Resource":"*"}]}`
	for verb, yes := range map[string][]string{"create": nil, "update": {"--yes"}} {
		g := new(fakeGateway)
		stdout, stderr, err := g.kmsgate(document, append([]string{"policy", verb, "p", "--file", "-"}, yes...)...)
		const want = "kmsgate: warning: action \"kms:AsymetricSign\" matches no operation of this gateway: did you mean kms:AsymmetricSign?\n" +
			"kmsgate: warning: action \"oss:GetObject\" matches no operation of this gateway\n"
		if err != nil || stdout != "Policy p was "+verb+"d.\n" || stderr != want || len(g.calls) != 1 {
			t.Errorf("%s: got %v, printed %q, warned %q, want %q", verb, err, stdout, stderr, want)
		}
	}
}

// TestErrorsAsJSON reports errors to programs, and each kind has its exit status.
func TestErrorsAsJSON(t *testing.T) {
	for _, c := range []struct {
		err  error
		args []string
		want string
	}{
		{kms.ErrKeyNotFound, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"\"k\": 404 Forbidden.KeyNotFound: The specified Key is not found.","Code":"Forbidden.KeyNotFound","ExitStatus":3}`},
		{kms.ErrKeyPendingDeletion, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"409 Rejected.PendingDeletion: The request was rejected because the key state is PendingDeletion.","Code":"Rejected.PendingDeletion","ExitStatus":4}`},
		{kms.ErrUnavailable, []string{"key", "enable", "k", "-o=json"}, `{"Error":"503 ServiceUnavailableTemporary: Service Unavailable Temporary.","Code":"ServiceUnavailableTemporary","ExitStatus":5}`},
		{kms.ErrInternal, []string{"key", "enable", "k", "--output", "json"}, `{"Error":"500 InternalFailure: Internal Failure.","Code":"InternalFailure","ExitStatus":1}`},
		{target.ErrUnreachable, []string{"key", "enable", "k", "-o", "json"}, `{"Error":"no gateway answers","Code":"","ExitStatus":5}`},
		{nil, []string{"key", "enable", "-o", "json"}, `{"Error":"KEY is missing: usage: kmsgate key enable KEY [flags]","Code":"","ExitStatus":2}`},
	} {
		root := rootCommand(&fakeGateway{refuse: map[string]error{"EnableKey": c.err}})
		root.SetArgs(c.args)
		err := root.Execute()
		var b bytes.Buffer
		cli.ReportError(&b, c.args, err)
		if got := compact(t, b.String()); got != c.want+"\n" {
			t.Errorf("%q: got %swant %s", c.args, got, c.want)
		}
	}
}

// TestCompletion asks as a shell does.
func TestCompletion(t *testing.T) {
	answers := map[string]string{
		"ListUsers":       `{"Users":{"User":[{"UserName":"alice"},{"UserName":"bob"},{"UserName":"ali\u001bas"}]}}`,
		"ListAliases":     `{"Aliases":{"Alias":[{"AliasName":"alias/x"}]},"TotalCount":1}`,
		"ListKeys":        `{"Keys":{"Key":[{"KeyId":"k-1"}]},"TotalCount":1}`,
		"ListRamPolicies": `{"Policies":{"Policy":[{"PolicyName":"p"},{"PolicyName":"q"}]}}`,
	}
	for line, want := range map[string]string{
		"user list -o ":                    "table\njson\n:4\n",
		"key create --spec ":               "RSA_2048\nRSA_3072\nRSA_4096\nEC_P256\nEC_P256K\nEC_SM2\n:4\n",
		"key list --state ":                "Enabled\nDisabled\nPendingDeletion\n:4\n",
		"audit export --output ":           "json\ncsv\n:4\n",
		"policy create p --file ":          ":0\n", // the shell completes files
		"policy list ":                     ":4\n", // and not here
		"audit verify ":                    ":0\n",
		"audit verify --audit-public-key ": ":0\n",
		"key show ":                        "alias/x\nk-1\n:4\n",
		"key show k":                       "k-1\n:4\n",
		"key show k-1 ":                    ":4\n",
		"alias create alias/y --key a":     "alias/x\n:4\n",
		"policy attach ":                   "--user\tthe user that the policy is for\np\nq\n:4\n", // cobra offers required flags as well
		"policy attach p --user ali":       "alice\n:4\n",
	} {
		stdout, _, err := (&fakeGateway{answers: answers}).kmsgate("", append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...)...)
		if err != nil || stdout != want {
			t.Errorf("%q: got %q, %v, want %q", line, stdout, err, want)
		}
	}
}

// TestWriteFails: a secret that could not be printed is reported.
func TestWriteFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	g := new(fakeGateway)
	root := rootCommand(g)
	root.SetOut(full)
	root.SetArgs([]string{"accesskey", "create", "--user", "alice"})
	if err := root.Execute(); err == nil || !strings.Contains(fmt.Sprint(err), "printing the answer") {
		t.Errorf("on a full disk: %v", err)
	}
}
