package gateway

import (
	"context"
	"reflect"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// An operation is what a call asks for: a description and a function.
type operation struct {
	kms.Operation
	run func(ctx context.Context, c *call) (kms.Response, error)
}

// op binds f to the description of an operation. The operation's run decodes the call's
// parameters into a Req and calls f.
func op[Req, Resp any, R interface {
	*Resp
	kms.Response
}](name string, f func(ctx context.Context, c *call, req *Req) (R, error)) operation {
	description, ok := kms.Find(name)
	if !ok || description.Request != reflect.TypeFor[Req]() ||
		description.Response != nil && description.Response != reflect.TypeFor[Resp]() {
		panic("gateway: the function of " + name + " does not match its description") // a bug in the table below
	}
	return operation{Operation: description, run: func(ctx context.Context, c *call) (kms.Response, error) {
		if !description.Business {
			c.parameters = copied(c.parameters)
		}
		req := new(Req)
		if err := kms.Decode(c.parameters, req); err != nil {
			return nil, err
		}
		ctx, cancel := c.operation.limit(ctx)
		defer cancel()
		resp, err := f(ctx, c, req)
		if err != nil {
			return nil, err // not resp: a nil R is not a nil kms.Response
		}
		return resp, nil
	}}
}

// copied returns a copy of parameters that shares no memory with the request. Records keep texts of requests,
// and must not keep the whole request. A business operation changes no records, which saves it the copies.
func copied(parameters map[string]string) map[string]string {
	own := make(map[string]string, len(parameters))
	for name, value := range parameters {
		own[strings.Clone(name)] = strings.Clone(value)
	}
	return own
}

// limit returns a context that ends after the operation's time-out.
func (o operation) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, o.Timeout)
}

// operations maps the names in kms.Operations to the operations.
var operations = byName(
	op("AsymmetricSign", asymmetricSign),
	op("AsymmetricVerify", asymmetricVerify),
	op("GetPublicKey", getPublicKey),
	op("GenerateRandom", generateRandom),

	op("CreateKey", createKey),
	op("DescribeKey", describeKey),
	op("ListKeys", listKeys),
	op("EnableKey", enableKey),
	op("DisableKey", disableKey),
	op("ScheduleKeyDeletion", scheduleKeyDeletion),
	op("CancelKeyDeletion", cancelKeyDeletion),
	op("SetDeletionProtection", setDeletionProtection),
	op("UpdateKeyDescription", updateKeyDescription),

	op("CreateKeyVersion", createKeyVersion),
	op("DescribeKeyVersion", describeKeyVersion),
	op("ListKeyVersions", listKeyVersions),

	op("CreateAlias", createAlias),
	op("UpdateAlias", updateAlias),
	op("DeleteAlias", deleteAlias),
	op("ListAliases", listAliases),
	op("ListAliasesByKeyId", listAliasesByKeyId),

	op("TagResource", tagResource),
	op("UntagResource", untagResource),
	op("ListResourceTags", listResourceTags),
	op("TagResources", tagResources),
	op("UntagResources", untagResources),
	op("ListTagResources", listTagResources),

	op("SetKeyPolicy", setKeyPolicy),
	op("GetKeyPolicy", getKeyPolicy),

	op("CreateNetworkRule", createNetworkRule),
	op("DescribeNetworkRule", describeNetworkRule),
	op("ListNetworkRules", listNetworkRules),
	op("UpdateNetworkRule", updateNetworkRule),
	op("DeleteNetworkRule", deleteNetworkRule),

	op("CreatePolicy", createPermissionPolicy),
	op("DescribePolicy", describePermissionPolicy),
	op("ListPolicies", listPermissionPolicies),
	op("UpdatePolicy", updatePermissionPolicy),
	op("DeletePolicy", deletePermissionPolicy),

	op("CreateApplicationAccessPoint", createApplicationAccessPoint),
	op("DescribeApplicationAccessPoint", describeApplicationAccessPoint),
	op("ListApplicationAccessPoints", listApplicationAccessPoints),
	op("UpdateApplicationAccessPoint", updateApplicationAccessPoint),
	op("DeleteApplicationAccessPoint", deleteApplicationAccessPoint),

	op("CreateClientKey", createClientKey),
	op("GetClientKey", getClientKey),
	op("ListClientKeys", listClientKeys),
	op("DeleteClientKey", deleteClientKey),

	op("DescribeRegions", describeRegions),
	op("DescribeAccountKmsStatus", describeAccountKmsStatus),
	op("OpenKmsService", openKmsService),
	op("GetKmsInstance", getKmsInstance),
	op("ListKmsInstances", listKmsInstances),

	op("CreateUser", createUser),
	op("ListUsers", listUsers),
	op("DeleteUser", deleteUser),
	op("ListQuotas", listQuotas),
	op("SetUserQuota", setUserQuota),

	op("CreateAccessKey", createAccessKey),
	op("ListAccessKeys", listAccessKeys),
	op("UpdateAccessKey", updateAccessKey),
	op("DeleteAccessKey", deleteAccessKey),

	op("CreateRamPolicy", createRamPolicy),
	op("GetRamPolicy", getRamPolicy),
	op("ListRamPolicies", listRamPolicies),
	op("UpdateRamPolicy", updateRamPolicy),
	op("DeleteRamPolicy", deleteRamPolicy),
	op("AttachPolicyToUser", attachPolicyToUser),
	op("DetachPolicyFromUser", detachPolicyFromUser),
	op("SimulatePolicy", simulatePolicy),

	op("DescribeToken", describeToken),
	op("ListTokenObjects", listTokenObjects),
	op("ListKeyVersionUses", listKeyVersionUses),
	op("TestKeyVersion", testKeyVersion),
	op("DestroyTokenObject", destroyTokenObject),

	op("GetAuditHead", getAuditHead),

	op("DescribeClock", describeClock),
	op("ConfirmClock", confirmClock),

	op("CreateNamedKey", createNamedKey),
	op("CreateAttestation", createAttestation),
	op("CreateBackup", createBackup),
)

func byName(rows ...operation) map[string]operation {
	all := make(map[string]operation, len(rows))
	for _, o := range rows {
		all[o.Name] = o
	}
	return all
}
