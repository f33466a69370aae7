// KafkaJS against one node. Prints PASS or FAIL, a line for each test.
import { randomUUID } from "node:crypto";
import kafkajs from "kafkajs";

const { Kafka, logLevel, CompressionTypes } = kafkajs;

const kafka = new Kafka({ clientId: "interop", brokers: process.env.SLUICE_KAFKA.split(","), logLevel: logLevel.NOTHING, retry: { retries: 5 } });
const name = (prefix) => prefix + "-" + randomUUID().slice(0, 8);
const N = 300;

function same(got, want) {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`got ${JSON.stringify(got).slice(0, 200)}, want ${JSON.stringify(want).slice(0, 200)}`);
}

// consume reads n messages in a group of its own, or as many as come in 20 s.
async function consume(topic, n, groupId = name("g")) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const got = [];
  await new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 20000);
    consumer.run({
      eachMessage: async ({ message }) => {
        got.push(message.value.toString());
        if (got.length === n) { clearTimeout(timer); resolve(); }
      },
    }).catch(reject);
  });
  await consumer.disconnect();
  return got;
}

const tests = {
  async admin() {
    const admin = kafka.admin();
    await admin.connect();
    const topic = name("adm");
    same(await admin.createTopics({ topics: [{ topic, numPartitions: 3 }] }), true);
    const meta = await admin.fetchTopicMetadata({ topics: [topic] });
    same(meta.topics[0].partitions.length, 3);
    same((await admin.fetchTopicOffsets(topic)).map((o) => o.offset), ["0", "0", "0"]);
    await admin.deleteTopics({ topics: [topic] });
    // It lists by any node, which may hear of it a little later, as with Kafka.
    for (let i = 0; i < 50 && (await admin.listTopics()).includes(topic); i++) await new Promise((r) => setTimeout(r, 100));
    same((await admin.listTopics()).includes(topic), false);
    await admin.disconnect();
  },
  async both_ways() {
    const topic = name("kjs");
    const producer = kafka.producer({ allowAutoTopicCreation: true });
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = Array.from({ length: N }, (_, i) => ({ value: `${compression}-${i}`, headers: { h: "1" } }));
      await producer.send({ topic, messages, compression });
    }
    await producer.disconnect();
    const got = await consume(topic, 2 * N);
    same(got.length, 2 * N);
    same(got[0], "0-0");
    same(got[2 * N - 1], `1-${N - 1}`);
  },
  async group_goes_on() {
    const topic = name("grp"), group = name("g");
    const producer = kafka.producer();
    await producer.connect();
    await producer.send({ topic, messages: [{ value: "a" }, { value: "b" }] });
    same(await consume(topic, 2, group), ["a", "b"]);
    await producer.send({ topic, messages: [{ value: "c" }] });
    same(await consume(topic, 1, group), ["c"]);
    await producer.disconnect();
  },
  async transactions() {
    const topic = name("tx");
    const producer = kafka.producer({ transactionalId: name("id"), maxInFlightRequests: 1, idempotent: true });
    await producer.connect();
    for (let r = 0; r < 4; r++) {
      const t = await producer.transaction();
      await t.send({ topic, messages: [{ value: `${r}` }] });
      await (r % 2 ? t.abort() : t.commit());
    }
    await producer.disconnect();
    same(await consume(topic, 2), ["0", "2"]);
  },
};

for (const [test, run] of Object.entries(tests)) {
  try {
    await run();
    console.log(`PASS ${test}`);
  } catch (e) {
    console.log(`FAIL ${test}: ${String(e).replaceAll("\n", " ")}`);
  }
}
process.exit(0);
