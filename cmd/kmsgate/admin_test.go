package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/config"
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

	{"clock show", map[string]string{"DescribeClock": `{"Clock":{"Time":"t","Believed":false,"Reason":"it jumped","KeysDue":2}}`}, []string{"DescribeClock"},
		"Time      t\nBelieved  false\nReason    it jumped\nKeysDue   2\n", `{"Time":"t","Believed":false,"Reason":"it jumped","KeysDue":2}`},
	{"clock confirm --yes", map[string]string{"ConfirmClock": `{}`}, []string{"ConfirmClock"}, "The gateway believes its clock.\n", `{"RequestId":""}`},
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
	elsewhere := []string{"bench", "audit verify", "audit tail", "audit search", "audit export", "doctor", "backup", "restore", "dev", "init", "serve", "config check", "config example", "version", "sign", "verify", "public-key", "csr", "cms", "batch", "batch verify", "ceremony", "ceremony verify", "store dump"}
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
		"schedule-deletion cancel-deletion protect unprotect public-key create-version tag untag attach detach simulate reset confirm " +
		"head verify tail search export check example info test dump") // of one
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
