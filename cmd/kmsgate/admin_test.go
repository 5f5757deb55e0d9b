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

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/target"
)

// A fakeGateway answers as it is told to and remembers what it was asked.
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

func (g *fakeGateway) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	if err := g.Call(ctx, action, parameters, nil); err != nil {
		return err
	}
	_, err := io.WriteString(w, g.answers[action])
	return err
}

// kmsgate runs a command line.
func (g *fakeGateway) kmsgate(in string, args ...string) (stdout, stderr string, err error) {
	root := &cobra.Command{Use: "kmsgate", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(adminCommands(g)...)
	var out, errs bytes.Buffer
	root.SetIn(strings.NewReader(in))
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

// commandLines are what people type, what the gateway is asked for then, and
// what is printed. {FILE} is a file with aDocument.
var commandLines = []struct {
	line    string
	answers map[string]string
	calls   []string
	table   string
	json    string
}{
	{"user create alice --comments x", nil,
		[]string{"CreateUser Comments=x UserName=alice"}, "The user alice is created.\n", `{"RequestId":"r-1"}`},
	{"user list", map[string]string{"ListUsers": `{"Users":{"User":[{"UserName":"alice","CreateDate":"d","Policies":{"Policy":["p","q"]},"AccessKeys":2}]}}`},
		[]string{"ListUsers"},
		"UserName  Comments  CreateDate  Policies  AccessKeys\nalice               d           p, q      2\n",
		`[{"UserName":"alice","Comments":"","CreateDate":"d","Policies":{"Policy":["p","q"]},"AccessKeys":2}]`},
	{"user delete alice", nil, []string{"DeleteUser UserName=alice"}, "The user alice is deleted.\n", `{"RequestId":"r-1"}`},
	{"user delete alice --force", nil, []string{"DeleteUser Force=true UserName=alice"}, "The user alice is deleted.\n", `{"RequestId":"r-1"}`},

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
	{"accesskey disable A", nil, []string{"UpdateAccessKey AccessKeyId=A Status=Inactive"}, "The access key A is disabled.\n", `{"RequestId":"r-1"}`},
	{"accesskey enable A", nil, []string{"UpdateAccessKey AccessKeyId=A Status=Active"}, "The access key A is enabled.\n", `{"RequestId":"r-1"}`},
	{"accesskey delete A", nil, []string{"DeleteAccessKey AccessKeyId=A"}, "The access key A is deleted.\n", `{"RequestId":"r-1"}`},

	{"policy create p --file {FILE} --description why", nil,
		[]string{"CreateRamPolicy Description=why PolicyDocument=" + aDocument + " PolicyName=p"}, "The policy p is created.\n", `{"RequestId":"r-1"}`},
	{"policy list", map[string]string{"ListRamPolicies": `{"Policies":{"Policy":[{"PolicyName":"p","PolicyType":"Custom","Description":"why","AttachmentCount":1,"CreateDate":"d","UpdateDate":"e"}]}}`},
		[]string{"ListRamPolicies"},
		"PolicyName  PolicyType  Description  AttachmentCount  CreateDate  UpdateDate\np           Custom      why          1                d           e\n",
		`[{"PolicyName":"p","PolicyType":"Custom","Description":"why","AttachmentCount":1,"CreateDate":"d","UpdateDate":"e"}]`},
	{"policy show p", map[string]string{"GetRamPolicy": `{"Policy":{"PolicyName":"p","PolicyType":"Custom","PolicyDocument":"{\"Version\":\"1\"}"}}`},
		[]string{"GetRamPolicy PolicyName=p"}, "{\n  \"Version\": \"1\"\n}\n",
		`{"PolicyName":"p","PolicyType":"Custom","Description":"","AttachmentCount":0,"CreateDate":"","UpdateDate":"","PolicyDocument":"{\"Version\":\"1\"}"}`},
	{"policy update p --file -", nil,
		[]string{"UpdateRamPolicy PolicyDocument=standard input PolicyName=p"}, "The policy p is updated.\n", `{"RequestId":"r-1"}`},
	{"policy delete p", nil, []string{"DeleteRamPolicy PolicyName=p"}, "The policy p is deleted.\n", `{"RequestId":"r-1"}`},
	{"policy attach p --user alice", nil,
		[]string{"AttachPolicyToUser PolicyName=p UserName=alice"}, "The policy p is attached to alice.\n", `{"RequestId":"r-1"}`},
	{"policy detach p --user alice", nil,
		[]string{"DetachPolicyFromUser PolicyName=p UserName=alice"}, "The policy p is detached from alice.\n", `{"RequestId":"r-1"}`},
	{"policy simulate --user alice --action AsymmetricSign --key k --source-ip 192.0.2.7",
		map[string]string{"SimulatePolicy": `{"Allowed":true,"Reason":"why","PolicyName":"p","Statement":2,"Resource":"r"}`},
		[]string{"SimulatePolicy ActionName=AsymmetricSign KeyId=k SourceIp=192.0.2.7 UserName=alice"},
		"Allowed     true\nReason      why\nPolicyName  p\nStatement   2\nResource    r\n",
		`{"Allowed":true,"Reason":"why","PolicyName":"p","Statement":2,"Resource":"r"}`},

	{"policy simulate --user aap:app --action CreatePolicy --name n", map[string]string{"SimulatePolicy": `{"Reason":"why"}`},
		[]string{"SimulatePolicy ActionName=CreatePolicy Name=n UserName=aap:app"}, "Allowed  false\nReason   why\n",
		`{"Allowed":false,"Reason":"why","PolicyName":"","Statement":0,"Resource":""}`},

	{"quota list", map[string]string{"ListQuotas": `{"Quotas":{"Quota":[{"Gateway":"shared","QuotaName":"asymmetric","UserName":"alice","QueriesPerSecond":0.5}]}}`},
		[]string{"ListQuotas"},
		"Gateway  QuotaName   UserName  QueriesPerSecond\nshared   asymmetric  alice     0.5\n",
		`[{"Gateway":"shared","QuotaName":"asymmetric","UserName":"alice","QueriesPerSecond":0.5}]`},
	{"quota set --user alice --quota asymmetric --qps 50", nil,
		[]string{"SetUserQuota QueriesPerSecond=50 QuotaName=asymmetric UserName=alice"}, "The quota asymmetric of alice is 50 requests a second.\n", `{"RequestId":"r-1"}`},
	{"quota reset --user alice --quota asymmetric", nil,
		[]string{"SetUserQuota QueriesPerSecond= QuotaName=asymmetric UserName=alice"}, "alice has no quota asymmetric of its own any more.\n", `{"RequestId":"r-1"}`},

	{"key create --spec EC_P256 --description x --tag a=b --tag c= --policy {FILE} --alias alias/x", map[string]string{"CreateKey": aKey},
		[]string{`CreateKey Description=x KeySpec=EC_P256 Policy=` + aDocument + ` Tags=[{"TagKey":"a","TagValue":"b"},{"TagKey":"c","TagValue":""}]`, "CreateAlias AliasName=alias/x KeyId=k-1"},
		keyTable, keyJSON},
	{"key describe alias/x", map[string]string{"DescribeKey": aKey}, []string{"DescribeKey KeyId=alias/x"}, keyTable, keyJSON},
	{"key list", map[string]string{"ListKeys 1": `{"Keys":{"Key":` + allowKey + `},"TotalCount":101}`, "ListKeys 2": `{"Keys":{"Key":[{"KeyArn":"b","KeyId":"k-2"}]},"TotalCount":101}`},
		[]string{"ListKeys PageNumber=1 PageSize=100", "ListKeys PageNumber=2 PageSize=100"},
		"KeyId  KeyArn\nk-1    acs:kms:r:1:key/k-1\nk-2    b\n",
		`[{"KeyId":"k-1","KeyArn":"acs:kms:r:1:key/k-1"},{"KeyId":"k-2","KeyArn":"b"}]`},
	{"key list --spec EC_SM2 --state Disabled", map[string]string{"ListKeys": `{"Keys":{"Key":[]},"TotalCount":0}`},
		[]string{`ListKeys Filters=[{"Key":"KeySpec","Values":["EC_SM2"]},{"Key":"KeyState","Values":["Disabled"]}] PageNumber=1 PageSize=100`},
		"KeyId  KeyArn\n", `[]`},
	{"key list --long", map[string]string{"ListKeys": `{"Keys":{"Key":` + allowKey + `},"TotalCount":1}`, "DescribeKey": aKey},
		[]string{"ListKeys PageNumber=1 PageSize=100", "DescribeKey KeyId=k-1"},
		"KeyId  KeySpec  KeyState  ProtectionLevel  CreationDate          Description\nk-1    EC_P256  Enabled                    2026-11-22T00:00:00Z  a\\x1b[31mb\n",
		"[" + keyJSON + "]"},
	{"key enable k", nil, []string{"EnableKey KeyId=k"}, "The key k is enabled.\n", `{"RequestId":"r-1"}`},
	{"key disable k", nil, []string{"DisableKey KeyId=k"}, "The key k is disabled.\n", `{"RequestId":"r-1"}`},
	{"key schedule-deletion k --days 30", nil,
		[]string{"ScheduleKeyDeletion KeyId=k PendingWindowInDays=30"}, "The key k is going to be deleted in 30 days.\n", `{"RequestId":"r-1"}`},
	{"key cancel-deletion k", nil, []string{"CancelKeyDeletion KeyId=k"}, "The key k is kept, and enabled.\n", `{"RequestId":"r-1"}`},
	{"key update k --description x", nil, []string{"UpdateKeyDescription Description=x KeyId=k"}, "The description of the key k is changed.\n", `{"RequestId":"r-1"}`},
	{"key protect k --description x", nil,
		[]string{"SetDeletionProtection DeletionProtectionDescription=x EnableDeletionProtection=true KeyId=k"}, "The key k is protected from deletion.\n", `{"RequestId":"r-1"}`},
	{"key unprotect k", nil,
		[]string{"SetDeletionProtection EnableDeletionProtection=false KeyId=k"}, "The key k is no longer protected from deletion.\n", `{"RequestId":"r-1"}`},
	{"key public-key k", map[string]string{"ListKeyVersions": `{"KeyVersions":{"KeyVersion":[{"KeyVersionId":"v-1"},{"KeyVersionId":"v-2"}]},"TotalCount":2}`, "GetPublicKey": `{"KeyId":"k","KeyVersionId":"v-2","PublicKey":"PEM\nmore\n"}`},
		[]string{"ListKeyVersions KeyId=k PageNumber=1 PageSize=100", "GetPublicKey KeyId=k KeyVersionId=v-2"},
		"PEM\nmore\n", `{"KeyId":"k","KeyVersionId":"v-2","PublicKey":"PEM\nmore\n"}`},
	{"key public-key k --version v-1", map[string]string{"GetPublicKey": `{"KeyId":"k","KeyVersionId":"v-1","PublicKey":"PEM"}`},
		[]string{"GetPublicKey KeyId=k KeyVersionId=v-1"}, "PEM\n", `{"KeyId":"k","KeyVersionId":"v-1","PublicKey":"PEM"}`},
	{"key versions k", map[string]string{"ListKeyVersions": `{"KeyVersions":{"KeyVersion":[{"KeyVersionId":"v-1","KeyId":"k-1","CreationDate":"d"}]},"TotalCount":1}`},
		[]string{"ListKeyVersions KeyId=k PageNumber=1 PageSize=100"},
		"KeyVersionId  CreationDate  KeyId\nv-1           d             k-1\n", `[{"KeyVersionId":"v-1","CreationDate":"d","KeyId":"k-1"}]`},
	{"key create-version k", map[string]string{"CreateKeyVersion": `{"KeyVersion":{"KeyVersionId":"v-1","KeyId":"k-1","CreationDate":"d"}}`},
		[]string{"CreateKeyVersion KeyId=k"},
		"KeyVersionId  v-1\nCreationDate  d\nKeyId         k-1\n", `{"KeyVersionId":"v-1","CreationDate":"d","KeyId":"k-1"}`},
	{"key policy show k", map[string]string{"GetKeyPolicy": `{"Policy":"{\"Version\":\"1\"}"}`},
		[]string{"GetKeyPolicy KeyId=k"}, "{\n  \"Version\": \"1\"\n}\n", `{"Policy":"{\"Version\":\"1\"}"}`},
	{"key policy set k --file {FILE}", nil, []string{"SetKeyPolicy KeyId=k Policy=" + aDocument}, "The policy of the key k is set.\n", `{"RequestId":"r-1"}`},
	{"key tag k a=b c=d=e", nil,
		[]string{`TagResource KeyId=k Tags=[{"TagKey":"a","TagValue":"b"},{"TagKey":"c","TagValue":"d=e"}]`}, "The key k is tagged.\n", `{"RequestId":"r-1"}`},
	{"key untag k a c", nil, []string{`UntagResource KeyId=k TagKeys=["a","c"]`}, "The tags are taken from the key k.\n", `{"RequestId":"r-1"}`},
	{"key tags k", map[string]string{"ListResourceTags": `{"Tags":{"Tag":[{"KeyId":"k","TagKey":"a","TagValue":"b"}]}}`},
		[]string{"ListResourceTags KeyId=k"}, "TagKey  TagValue\na       b\n", `[{"TagKey":"a","TagValue":"b"}]`},

	{"alias create alias/x --key k", nil, []string{"CreateAlias AliasName=alias/x KeyId=k"}, "alias/x is an alias of k.\n", `{"RequestId":"r-1"}`},
	{"alias update alias/x --key k", nil, []string{"UpdateAlias AliasName=alias/x KeyId=k"}, "alias/x is an alias of k.\n", `{"RequestId":"r-1"}`},
	{"alias delete alias/x", nil, []string{"DeleteAlias AliasName=alias/x"}, "alias/x is deleted.\n", `{"RequestId":"r-1"}`},
	{"alias list", map[string]string{"ListAliases": `{"Aliases":{"Alias":[{"AliasArn":"arn","AliasName":"alias/x","KeyId":"k"}]},"TotalCount":1}`},
		[]string{"ListAliases PageNumber=1 PageSize=100"}, "AliasName  KeyId  AliasArn\nalias/x    k      arn\n", `[{"AliasName":"alias/x","KeyId":"k","AliasArn":"arn"}]`},
	{"alias list --key k", map[string]string{"ListAliasesByKeyId": `{"Aliases":{"Alias":[]},"TotalCount":0}`},
		[]string{"ListAliasesByKeyId KeyId=k PageNumber=1 PageSize=100"}, "AliasName  KeyId  AliasArn\n", `[]`},

	{"aap create app --policy p --policy q --description x", map[string]string{"CreateApplicationAccessPoint": aAccessPoint},
		[]string{`CreateApplicationAccessPoint Description=x Name=app Policies=["p","q"]`}, aapTable, aapJSON},
	{"aap list", map[string]string{"ListApplicationAccessPoints": `{"ApplicationAccessPoints":{"ApplicationAccessPoint":[{"Name":"app","AuthenticationMethod":"ClientKey"}]},"TotalCount":1}`},
		[]string{"ListApplicationAccessPoints PageNumber=1 PageSize=100"}, "Name  AuthenticationMethod\napp   ClientKey\n", `[{"Name":"app","AuthenticationMethod":"ClientKey"}]`},
	{"aap show app", map[string]string{"DescribeApplicationAccessPoint": aAccessPoint}, []string{"DescribeApplicationAccessPoint Name=app"}, aapTable, aapJSON},
	{"aap update app --policy p", nil, []string{`UpdateApplicationAccessPoint Name=app Policies=["p"]`}, "The access point app is updated.\n", `{"RequestId":"r-1"}`},
	{"aap delete app", nil, []string{"DeleteApplicationAccessPoint Name=app"}, "The access point app and its client keys are deleted.\n", `{"RequestId":"r-1"}`},
	{"aap policy create p --key alias/x --key ab* --rule r --rule s --description x",
		map[string]string{"DescribeKey": aKey, "CreatePolicy": `{"Name":"p","Description":"x","Permissions":"[\"P\"]","Resources":"[\"key/k-1\",\"key/ab*\"]","AccessControlRules":"{\"NetworkRules\":[\"r\",\"s\"]}","KmsInstance":"i","Arn":"a"}`},
		[]string{"DescribeKey KeyId=alias/x", `CreatePolicy AccessControlRules={"NetworkRules":["r","s"]} Description=x Name=p Permissions=["RbacPermission/Template/CryptoServiceKeyUser"] Resources=["key/k-1","key/ab*"]`},
		"Name                p\nDescription         x\nPermissions         P\nResources           key/k-1, key/ab*\nAccessControlRules  r, s\nKmsInstance         i\nArn                 a\n",
		`{"Name":"p","Description":"x","Permissions":["P"],"Resources":["key/k-1","key/ab*"],"AccessControlRules":{"NetworkRules":["r","s"]},"KmsInstance":"i","Arn":"a"}`},
	{"aap policy create p --all-keys", map[string]string{"CreatePolicy": `{"Name":"p","Permissions":"[]","Resources":"[\"key/*\"]","AccessControlRules":"{\"NetworkRules\":[]}"}`},
		[]string{`CreatePolicy Name=p Permissions=["RbacPermission/Template/CryptoServiceKeyUser"] Resources=["key/*"]`},
		"Name       p\nResources  key/*\n", `{"Name":"p","Description":"","Permissions":[],"Resources":["key/*"],"AccessControlRules":{"NetworkRules":[]},"KmsInstance":"","Arn":""}`},
	{"aap policy list", map[string]string{"ListPolicies": `{"Policies":{"Policy":[{"Name":"p"}]},"TotalCount":1}`},
		[]string{"ListPolicies PageNumber=1 PageSize=100"}, "Name\np\n", `[{"Name":"p"}]`},
	{"aap policy show p", map[string]string{"DescribePolicy": `{"Name":"p","Permissions":["P"],"Resources":["key/*"],"AccessControlRules":"{\"NetworkRules\":[\"r\"]}"}`},
		[]string{"DescribePolicy Name=p"}, "Name                p\nPermissions         P\nResources           key/*\nAccessControlRules  r\n",
		`{"Name":"p","Description":"","Permissions":["P"],"Resources":["key/*"],"AccessControlRules":{"NetworkRules":["r"]},"KmsInstance":"","Arn":""}`},
	{"aap policy update p --key k --any-source", map[string]string{"DescribeKey": aKey},
		[]string{"DescribeKey KeyId=k", `UpdatePolicy AccessControlRules={"NetworkRules":[]} Name=p Resources=["key/k-1"]`}, "The permission policy p is updated.\n", `{"RequestId":"r-1"}`},
	{"aap policy update p --rule r", nil, []string{`UpdatePolicy AccessControlRules={"NetworkRules":["r"]} Name=p`}, "The permission policy p is updated.\n", `{"RequestId":"r-1"}`},
	{"aap policy delete p", nil, []string{"DeletePolicy Name=p"}, "The permission policy p is deleted.\n", `{"RequestId":"r-1"}`},
	{"aap rule create r --source 192.0.2.0/24 --source ::1 --description x", map[string]string{"CreateNetworkRule": `{"Name":"r","Description":"x","Type":"Private","SourcePrivateIp":"[\"192.0.2.0/24\",\"::1\"]","Arn":"a"}`},
		[]string{`CreateNetworkRule Description=x Name=r SourcePrivateIp=["192.0.2.0/24","::1"] Type=Private`},
		"Name             r\nDescription      x\nType             Private\nSourcePrivateIp  192.0.2.0/24, ::1\nArn              a\n",
		`{"Name":"r","Description":"x","Type":"Private","SourcePrivateIp":["192.0.2.0/24","::1"],"Arn":"a"}`},
	{"aap rule list", map[string]string{"ListNetworkRules": `{"NetworkRules":{"NetworkRule":[{"Name":"r","Type":"Private"}]},"TotalCount":1}`},
		[]string{"ListNetworkRules PageNumber=1 PageSize=100"}, "Name  Type\nr     Private\n", `[{"Name":"r","Type":"Private"}]`},
	{"aap rule show r", map[string]string{"DescribeNetworkRule": `{"Type":"Private","SourcePrivateIp":"[\"::1\"]","Arn":"a"}`},
		[]string{"DescribeNetworkRule Name=r"}, "Type             Private\nSourcePrivateIp  ::1\nArn              a\n", `{"Description":"","Type":"Private","SourcePrivateIp":["::1"],"Arn":"a"}`},
	{"aap rule update r --source ::1", nil, []string{`UpdateNetworkRule Name=r SourcePrivateIp=["::1"]`}, "The network rule r is updated.\n", `{"RequestId":"r-1"}`},
	{"aap rule delete r", nil, []string{"DeleteNetworkRule Name=r"}, "The network rule r is deleted.\n", `{"RequestId":"r-1"}`},

	{"clientkey create --aap app --out {DIR} --password-file {FILE} --not-before x --not-after y", map[string]string{"CreateClientKey": aClientKey},
		[]string{"CreateClientKey AapName=app NotAfter=y NotBefore=x Password=" + aDocument},
		"ClientKeyId  KAAP.1\nNotBefore    b\nNotAfter     a\nFile         {DIR}/clientKey_KAAP.1.json\n",
		`{"ClientKeyId":"KAAP.1","NotBefore":"b","NotAfter":"a","File":"{DIR}/clientKey_KAAP.1.json","PasswordFile":""}`},
	{"clientkey list --aap app", map[string]string{"ListClientKeys": `{"ClientKeys":[` + aClientKey + `]}`},
		[]string{"ListClientKeys AapName=app"}, "ClientKeyId  AapName  CreateTime  NotBefore  NotAfter\nKAAP.1       app      c           b          a\n",
		`[{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a"}]`},
	{"clientkey show KAAP.1", map[string]string{"GetClientKey": aClientKey}, []string{"GetClientKey ClientKeyId=KAAP.1"}, "PEM\n",
		`{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a","KeyAlgorithm":"","KeyOrigin":"","PublicKeyData":"PEM\n"}`},
	{"clientkey delete KAAP.1", nil, []string{"DeleteClientKey ClientKeyId=KAAP.1"}, "The client key KAAP.1 is deleted.\n", `{"RequestId":"r-1"}`},

	{"token info", map[string]string{"DescribeToken": aSurvey}, []string{"DescribeToken"},
		"Module    /m.so\n          an HSM, Maker, version 1.2, PKCS#11 2.40\n" +
			"Token     label \"bank\", serial number 7, slot 3\n          HSM9, Maker, hardware 1.0, firmware 2.0\n" +
			"Flags     RNG, LOGIN_REQUIRED\nSessions  no limit that it tells\nSealing   AES-GCM in the token\nSigning   through the token's own objects\n\n" +
			"KeySpec   Offered  Where         Generate   Sign     Reason\nRSA_2048  yes      in the token  250.00 ms  1.50 ms  \nEC_P256K  no                                         no such curve\n",
		aSurvey[len(`{"Survey":`) : len(aSurvey)-1]},
	{"token info --mechanisms", map[string]string{"DescribeToken": `{"Survey":{"Sealing":"","Copies":true,"Token":{"MaxSessions":5},"Mechanisms":[{"ID":1,"Name":"CKM_RSA_PKCS","MinKeySize":512,"MaxKeySize":4096,"Flags":["SIGN","VERIFY"]}],"Offers":[]}}`}, []string{"DescribeToken"},
		"Module    \n          , , version , PKCS#11 \nToken     label \"\", serial number , slot 0\n          , , hardware , firmware \nFlags     \nSessions  5\n" +
			"Sealing   none: kmsgate needs CKM_AES_GCM or CKM_SHA256_HMAC, and cannot use this token\nSigning   through copies that live in sessions, which is faster here\n\n" +
			"KeySpec  Offered  Where  Generate  Sign  Reason\n\nMechanism     MinKeySize  MaxKeySize  Flags\nCKM_RSA_PKCS  512         4096        SIGN, VERIFY\n",
		`{"Module":{"Path":"","Manufacturer":"","Description":"","Version":"","Cryptoki":""},"Token":{"Slot":0,"Label":"","Serial":"","Manufacturer":"","Model":"","Hardware":"","Firmware":"","Flags":null,"MaxSessions":5},"Mechanisms":[{"ID":1,"Name":"CKM_RSA_PKCS","MinKeySize":512,"MaxKeySize":4096,"Flags":["SIGN","VERIFY"]}],"Offers":[],"Sealing":"","Copies":true}`},
	{"token list", map[string]string{"ListTokenObjects": `{"Objects":{"Object":[{"Handle":7,"Class":"private key","KeySpec":"EC_P256","Label":"kmsgate","ObjectId":"ab","Use":"key version","KeyId":"k","KeyVersionId":"v","KeyState":"Enabled","Aliases":{"Alias":["alias/x","alias/y"]}}]},"Deviations":{"Deviation":[{"Use":"key version","KeyId":"l","KeyVersionId":"w","KeyState":"Disabled","KeySpec":"EC_P256","Aliases":{"Alias":[]},"PrivateKeys":0}]}}`},
		[]string{"ListTokenObjects"},
		"Use          Class        KeySpec  KeyId  KeyVersionId  KeyState  Aliases           Label    ObjectId  Handle  OtherPublicKey\nkey version  private key  EC_P256  k      v             Enabled   alias/x, alias/y  kmsgate  ab        7       false\n\n" +
			"Of these records the token does not have one private key; kmsgate doctor says what to do:\n\n" +
			"Use          KeyId  KeyVersionId  KeyState  KeySpec  Aliases  PrivateKeys\nkey version  l      w             Disabled  EC_P256           0\n",
		`{"Deviations":[{"Use":"key version","KeyId":"l","KeyVersionId":"w","KeyState":"Disabled","KeySpec":"EC_P256","Aliases":{"Alias":[]},"PrivateKeys":0}],"Objects":[{"Use":"key version","Class":"private key","KeySpec":"EC_P256","KeyId":"k","KeyVersionId":"v","KeyState":"Enabled","Aliases":{"Alias":["alias/x","alias/y"]},"Label":"kmsgate","ObjectId":"ab","Handle":7,"OtherPublicKey":false}]}`},
	{"token test --count 3", map[string]string{"ListKeys": `{"Keys":{"Key":[{"KeyId":"k"}]},"TotalCount":1}`, "ListKeyVersions": `{"KeyVersions":{"KeyVersion":[{"KeyId":"k","KeyVersionId":"v"}]},"TotalCount":1}`,
		"TestKeyVersion": `{"KeyId":"k","KeyVersionId":"v","KeySpec":"EC_P256","Signatures":3,"MinMilliseconds":1.5,"MedianMilliseconds":2,"MaxMilliseconds":2.25}`},
		[]string{"ListKeys PageNumber=1 PageSize=100", "ListKeyVersions KeyId=k PageNumber=1 PageSize=100", "TestKeyVersion Count=3 KeyId=k KeyVersionId=v"},
		"KeyId  KeyVersionId  KeySpec  Signatures  MinMilliseconds  MedianMilliseconds  MaxMilliseconds  Error\nk      v             EC_P256  3           1.5              2                   2.25             \n",
		`[{"KeyId":"k","KeyVersionId":"v","KeySpec":"EC_P256","Signatures":3,"MinMilliseconds":1.5,"MedianMilliseconds":2,"MaxMilliseconds":2.25,"Error":""}]`},

	{"audit head", map[string]string{"GetAuditHead": `{"Head":"abc"}`}, []string{"GetAuditHead"}, "abc\n", `{"Head":"abc"}`},
}

const aSurvey = `{"Survey":{"Module":{"Path":"/m.so","Manufacturer":"Maker","Description":"an HSM","Version":"1.2","Cryptoki":"2.40"},"Token":{"Slot":3,"Label":"bank","Serial":"7","Manufacturer":"Maker","Model":"HSM9","Hardware":"1.0","Firmware":"2.0","Flags":["RNG","LOGIN_REQUIRED"],"MaxSessions":0},"Mechanisms":[],"Offers":[{"KeySpec":"RSA_2048","Offered":true,"Software":false,"Reason":"","Generate":250000000,"Sign":1500000},{"KeySpec":"EC_P256K","Offered":false,"Software":false,"Reason":"no such curve","Generate":0,"Sign":0}],"Sealing":"AES-GCM in the token","Copies":false}}`

const (
	aAccessPoint = `{"Name":"app","Description":"x","Policies":"[\"p\",\"q\"]","AuthenticationMethod":"ClientKey","Arn":"a"}`
	aapTable     = "Name                  app\nDescription           x\nPolicies              p, q\nAuthenticationMethod  ClientKey\nArn                   a\n"
	aapJSON      = `{"Name":"app","Description":"x","Policies":["p","q"],"AuthenticationMethod":"ClientKey","Arn":"a"}`

	aClientKey = `{"ClientKeyId":"KAAP.1","AapName":"app","CreateTime":"c","NotBefore":"b","NotAfter":"a","PrivateKeyData":"c2VjcmV0","PublicKeyData":"PEM\n"}`
)

// What a terminal gets of aKey, and a program.
const (
	keyTable = "KeyId         k-1\nKeySpec       EC_P256\nKeyState      Enabled\nDescription   a\\x1b[31mb\nCreationDate  2026-11-22T00:00:00Z\n"
	keyJSON  = `{"KeyId":"k-1","KeySpec":"EC_P256","KeyUsage":"","KeyState":"Enabled","DeleteDate":"","Description":"a\u001b[31mb","ProtectionLevel":"","DeletionProtection":"","DeletionProtectionDescription":"","Creator":"","CreationDate":"2026-11-22T00:00:00Z","Origin":"","DKMSInstanceId":"","Arn":""}`
)

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
			got, stderr, err := g.kmsgate("standard input", append(args, "-o", output)...)
			if err != nil || stderr != "" || g.dialed != 1 || g.closed != 1 {
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

// TestEveryCommand walks the commands: each has what a newcomer needs, and each
// that asks a gateway is in commandLines.
func TestEveryCommand(t *testing.T) {
	var walk func(path string, cmd *cobra.Command)
	walk = func(path string, cmd *cobra.Command) {
		path = strings.TrimSpace(path + " " + cmd.Name())
		if cmd.HasSubCommands() {
			for _, sub := range cmd.Commands() {
				walk(path, sub)
			}
			return
		}
		if cmd.Short == "" || cmd.Example == "" || cmd.Args == nil || cmd.Flag("output") == nil && cmd.InheritedFlags().Lookup("output") == nil {
			t.Errorf("%s lacks Short, Example, Args or -o", path)
		}
		if !strings.Contains(cmd.Example, "kmsgate "+path) {
			t.Errorf("%s is not in its example:\n%s", path, cmd.Example)
		}
		if cmd.Flag("socket") == nil {
			t.Errorf("%s: a gateway's flags are not there", path)
		}
		asks := !slices.Contains([]string{"audit verify", "audit tail", "audit search", "audit export"}, path) && path != "doctor" // those read files; the doctor has tests of its own
		for _, c := range commandLines {
			asks = asks && !strings.HasPrefix(c.line+" ", path+" ")
		}
		if asks {
			t.Errorf("no test runs %s", path)
		}
	}
	for _, cmd := range adminCommands(new(fakeGateway)) {
		walk("", cmd)
	}
}

// TestMistakes makes mistakes on the command line: each is told in a line, and
// no gateway is asked.
func TestMistakes(t *testing.T) {
	large := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(large, make([]byte, cli.MaxDocument+1), 0o600); err != nil {
		t.Fatal(err)
	}
	mistakes(t, map[string]string{
		"user create":                               "NAME is missing: kmsgate user create NAME [flags]",
		"user create alice bob":                     `"bob" is one argument too many: kmsgate user create NAME [flags]`,
		"user list all":                             `"all" is one argument too many: kmsgate user list [flags]`,
		"user creat alice":                          `unknown command "creat" for "kmsgate user"`,
		"user list -o yaml":                         `invalid argument "yaml" for "-o, --output" flag: it has to be one of table, json`,
		"user delete alice --force=perhaps":         `invalid argument "perhaps" for "--force" flag: it has to be one of true, false`,
		"accesskey create":                          `required flag(s) "user" not set`,
		"policy attach p":                           `required flag(s) "user" not set`,
		"policy create p --file /nonexistent":       "open /nonexistent: no such file or directory",
		"policy create p --file " + large:           large + " has more than 64 KiB",
		"policy create p --file -":                  "the standard input is empty",
		"key create --spec EC_P512":                 `invalid argument "EC_P512" for "--spec" flag: it has to be one of RSA_2048, RSA_3072, RSA_4096, EC_P256, EC_P256K, EC_SM2`,
		"key create --spec EC_P256 --tag a":         `the tag "a" is not KEY=VALUE`,
		"key create --spec EC_P256 --alias x":       `the alias "x" has to begin with alias/`,
		"key list --state Gone":                     `invalid argument "Gone" for "--state" flag: it has to be one of Enabled, Disabled, PendingDeletion`,
		"key tag k":                                 "KEY=VALUE is missing: kmsgate key tag KEY KEY=VALUE… [flags]",
		"key tag k a":                               `the tag "a" is not KEY=VALUE`,
		"token test --count 0":                      "--count 0: it has to be 1 to 100",
		"token test --count many":                   "--count many: it has to be 1 to 100",
		"token info extra":                          `"extra" is one argument too many: kmsgate token info [flags]`,
		"key untag":                                 "KEY is missing: kmsgate key untag KEY TAGKEY… [flags]",
		"key schedule-deletion k":                   `required flag(s) "days" not set`,
		"quota set --user alice --quota asymmetric": `required flag(s) "qps" not set`,
	})
}

// mistakes runs command lines, and wants each to be refused with a message.
func mistakes(t *testing.T, lines map[string]string) {
	t.Helper()
	for line, want := range lines {
		g := new(fakeGateway)
		stdout, _, err := g.kmsgate("", strings.Fields(line)...)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", line, err, want)
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

// TestAliasRefused creates a key whose alias is then refused: the key is there,
// and is shown.
func TestAliasRefused(t *testing.T) {
	g := &fakeGateway{answers: map[string]string{"CreateKey": aKey}, refuse: map[string]error{"CreateAlias": errors.New("400 AliasAlreadyExists: AliasName Already Exists.")}}
	stdout, _, err := g.kmsgate("", "key", "create", "--spec", "EC_P256", "--alias", "alias/x")
	if want := "the key is created, and has no alias: give it one with kmsgate alias create ALIAS --key k-1. (400 AliasAlreadyExists: AliasName Already Exists.)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if stdout != keyTable {
		t.Errorf("it printed %q", stdout)
	}
}

// TestCompletion asks as a shell asks.
func TestCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"user list -o ":               "table\njson\n:4\n",
		"key create --spec ":          "RSA_2048\nRSA_3072\nRSA_4096\nEC_P256\nEC_P256K\nEC_SM2\n:4\n",
		"key list --state ":           "Enabled\nDisabled\nPendingDeletion\n:4\n",
		"audit export --format ":      "jsonl\ncsv\n:4\n",
		"policy create p --file ":     ":0\n", // the shell's own: files
		"key describe ":               ":4\n", // and none here
		"audit verify ":               ":0\n",
		"audit verify --public-key ":  ":0\n",
		"policy attach p --user alic": ":4\n",
	} {
		stdout, _, err := new(fakeGateway).kmsgate("", append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...)...)
		if err != nil || stdout != want {
			t.Errorf("%q: %q, %v, want %q", line, stdout, err, want)
		}
	}
}

// TestWriteFails loses no secret silently.
func TestWriteFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	g := new(fakeGateway)
	root := &cobra.Command{Use: "kmsgate", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(adminCommands(g)...)
	root.SetOut(full)
	root.SetArgs([]string{"accesskey", "create", "--user", "alice"})
	if err := root.Execute(); err == nil || !strings.Contains(fmt.Sprint(err), "printing the answer") {
		t.Errorf("on a full disk: %v", err)
	}
}
