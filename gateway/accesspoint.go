package gateway

import "github.com/kmsgate/kmsgate/store"

var accessPoints = collection[store.ApplicationAccessPoint]{
	(*store.Tx).AccessPoint, (*store.Tx).PutAccessPoint, (*store.Tx).DeleteAccessPoint, (*store.Tx).CountAccessPoints, (*store.Tx).AccessPoints,
}
