// A second vendor's OPC UA server (node-opcua) for the driver's tests: node opcua_server.js FOLDER
// FOLDER keeps its certificates. Prints {"port": ...} when it listens, and ends when its standard input does.
// Lines on standard input are commands: {"set": ["Name", value]}, {"raise": "message"}; each is answered by a line.
"use strict";
const path = require("node:path");
const readline = require("node:readline");
const { OPCUAServer } = require("node-opcua-server");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy } = require("node-opcua-secure-channel");
const { DataType, StatusCodes, coerceInt64, coerceUInt64 } = require("node-opcua-basic-types");
const { Variant, VariantArrayType } = require("node-opcua-variant");

const NAMESPACE = "urn:other:plant";
const MOMENT = new Date(Date.UTC(2026, 2, 4, 5, 6, 7, 890));
const MANY = 650;

async function main(folder) {
  const manager = new OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: true, rootFolder: path.join(folder, "pki") });
  await manager.initialize();
  const server = new OPCUAServer({
    port: 0, resourcePath: "/plant", serverCertificateManager: manager, userCertificateManager: manager,
    allowAnonymous: true, disableDiscovery: true,
    securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep,
      SecurityPolicy.Aes256_Sha256_RsaPss],
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    userManager: { isValidUser: (user, password) => user === "operator" && password === "secret" },
    serverCapabilities: {
      maxSessions: 20, maxBrowseContinuationPoints: 3,
      operationLimits: { maxNodesPerRead: 300, maxNodesPerBrowse: 100, maxMonitoredItemsPerCall: 200,
        maxNodesPerTranslateBrowsePathsToNodeIds: 50 },
    },
  });
  await server.initialize();
  const { variables, device } = build(server.engine.addressSpace);
  const alarm = addAlarm(server.engine.addressSpace, device);
  await server.start();
  let moment = 0;
  console.log(JSON.stringify({ port: server.endpoints[0].port }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    if (command.set) {
      const [name, value] = command.set;
      const variable = variables[name];
      const before = variable.readValue().value;
      moment = Math.max(Date.now(), moment + 1); // no two changes have the same source time
      const next = new Variant({ dataType: before.dataType, arrayType: before.arrayType, value });
      variable.setValueFromSource(next, StatusCodes.Good, new Date(moment));
    }
    if (command.spoil) {
      const value = variables[command.spoil].readValue().value;
      variables[command.spoil].setValueFromSource(value, StatusCodes.BadSensorFailure, new Date());
    }
    if (command.raise) {
      alarm.activateAlarm();
      alarm.raiseNewCondition({ message: command.raise, severity: 700, retain: true });
    }
    console.log(JSON.stringify({ done: Object.keys(command)[0] }));
  }
  await server.shutdown(0);
  process.exit(0);
}

function build(space) {
  const own = space.registerNamespace(NAMESPACE);
  const device = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Boiler", nodeId: "s=Boiler", eventNotifier: 1, eventSourceOf: space.rootFolder.objects.server });
  const variables = {};
  const add = (name, dataType, value, more = {}) => {
    const long = dataType === DataType.Int64 || dataType === DataType.UInt64; // its numbers are pairs
    const array = !long && (Array.isArray(value) || (ArrayBuffer.isView(value) && !Buffer.isBuffer(value)));
    const variable = own.addVariable({
      componentOf: device, browseName: name, nodeId: `s=${name}`, dataType,
      accessLevel: more.writable ? "CurrentRead | CurrentWrite" : "CurrentRead",
      userAccessLevel: more.writable ? "CurrentRead | CurrentWrite" : "CurrentRead",
      minimumSamplingInterval: 0, ...(array ? { valueRank: 1, arrayDimensions: [value.length] } : {}),
    });
    const arrayType = array ? VariantArrayType.Array : VariantArrayType.Scalar;
    variable.setValueFromSource(new Variant({ dataType: more.as ?? dataType, arrayType, value }), StatusCodes.Good, MOMENT);
    variables[name] = variable;
    return variable;
  };
  add("Double", DataType.Double, 0.1, { writable: true });
  add("Float", DataType.Float, 1.5);
  add("Int16", DataType.Int16, -30000, { writable: true });
  add("UInt32", DataType.UInt32, 2 ** 32 - 1);
  add("Int64", DataType.Int64, coerceInt64("-9007199254740993"));
  add("UInt64", DataType.UInt64, coerceUInt64("18446744073709551615"));
  add("Boolean", DataType.Boolean, true);
  add("String", DataType.String, "蒸汽", { writable: true });
  add("DateTime", DataType.DateTime, MOMENT);
  add("Guid", DataType.Guid, "09087E75-8E5E-499B-954F-F2A9603DB28A");
  add("ByteString", DataType.ByteString, Buffer.from("plant"));
  add("Curve", DataType.Double, new Float64Array([0, 1, 2, 3, 4, 5, 6, 7]), { writable: true });
  add("Names", DataType.String, ["a", "b", "c"]);
  const mode = own.addEnumerationType({ browseName: "Mode", enumeration: [
    { displayName: "off", value: 0 }, { displayName: "on", value: 1 }, { displayName: "fault", value: 5 }] });
  add("Mode", mode, 1, { as: DataType.Int32 });
  variables.Pressure = own.addAnalogDataItem({
    componentOf: device, browseName: "Pressure", nodeId: "s=Pressure", dataType: DataType.Double,
    engineeringUnitsRange: { low: 0, high: 16 }, instrumentRange: { low: -1, high: 20 },
    engineeringUnits: { namespaceUri: "http://www.opcfoundation.org/UA/units/un/cefact", unitId: 4342098, displayName: "bar", description: "bar" },
    minimumSamplingInterval: 0, value: { dataType: DataType.Double, value: 5 },
  });
  const history = add("History", DataType.Double, 0);
  space.installHistoricalDataNode(history);
  const many = own.addFolder(space.rootFolder.objects, { browseName: "Many", nodeId: "s=Many" });
  for (let number = 0; number < MANY; number++) {
    own.addVariable({
      organizedBy: many, browseName: `N${number}`, nodeId: `s=N${number}`, dataType: DataType.Double,
      value: { dataType: DataType.Double, value: number },
    });
  }
  return { variables, device };
}

function addAlarm(space, device) {
  space.installAlarmsAndConditionsService();
  const own = space.getNamespace(NAMESPACE);
  const input = space.findNode(`ns=${own.index};s=Boolean`);
  return own.instantiateAlarmCondition("OffNormalAlarmType", {
    browseName: "PressureAlarm", conditionName: "PressureAlarm", conditionSource: device, conditionOf: device,
    inputNode: input, normalState: input,
  });
}

main(process.argv[2]).catch((error) => { console.error(error); process.exit(1); });
