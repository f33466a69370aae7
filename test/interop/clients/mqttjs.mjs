// Each protocol version over each transport: publish and subscribe, retained messages, wills, sessions, what MQTT 5 adds.
import fs from 'node:fs'
import mqtt from 'mqtt'

const ms = 20000
const ca = fs.readFileSync(process.env.SLUICE_CA)
const schemes = { tcp: 'mqtt', tls: 'mqtts', ws: 'ws', wss: 'wss' }

function check(ok, what) {
  if (!ok) throw new Error(what)
}

// Client is a connected client that keeps what arrives until next asks for it.
class Client {
  static async open(transport, version, clientId, options = {}) {
    const c = new Client()
    const port = process.env['SLUICE_' + transport.toUpperCase()]
    const url = `${schemes[transport]}://${process.env.SLUICE_HOST}:${port}${transport.startsWith('ws') ? '/mqtt' : ''}`
    c.arrived = []
    c.waiting = []
    c.mqtt = mqtt.connect(url, {
      clientId, ca, protocolVersion: version, protocolId: version === 3 ? 'MQIsdp' : 'MQTT', reconnectPeriod: 0, connectTimeout: ms, ...options,
    })
    c.mqtt.on('message', (topic, payload, packet) => {
      const wait = c.waiting.shift()
      if (wait) wait(packet)
      else c.arrived.push(packet)
    })
    c.connack = await new Promise((resolve, reject) => {
      c.mqtt.once('connect', resolve)
      c.mqtt.once('error', reject)
    })
    c.mqtt.on('error', () => {})
    return c
  }

  next() {
    if (this.arrived.length > 0) return Promise.resolve(this.arrived.shift())
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no message within ${ms} ms`)), ms)
      this.waiting.push((packet) => { clearTimeout(timer); resolve(packet) })
    })
  }

  close() {
    return this.mqtt.endAsync()
  }
}

const tests = {
  async flow(transport, version, prefix) {
    const c = await Client.open(transport, version, prefix)
    for (const qos of [0, 1, 2]) {
      const topic = `${prefix}/${qos}`
      await c.mqtt.subscribeAsync(topic, { qos })
      await Promise.all([...Array(30).keys()].map((i) => c.mqtt.publishAsync(topic, `m${i}`, { qos })))
      for (let i = 0; i < 30; i++) {
        const m = await c.next()
        check(m.payload.toString() === `m${i}` && m.qos === qos && !m.retain, `QoS ${qos}, ${i}: found ${m.payload} at ${m.qos}`)
      }
    }
    await c.close()
  },

  async large(transport, version, prefix) {
    const c = await Client.open(transport, version, prefix)
    const body = Buffer.alloc(700000, 'x')
    await c.mqtt.subscribeAsync(prefix, { qos: 1 })
    for (let i = 0; i < 3; i++) {
      await c.mqtt.publishAsync(prefix, body, { qos: 1 })
      check((await c.next()).payload.equals(body), 'another body')
    }
    await c.close()
  },

  async retained(transport, version, prefix) {
    const c = await Client.open(transport, version, prefix)
    await c.mqtt.publishAsync(prefix, 'kept', { qos: 1, retain: true })
    await c.mqtt.subscribeAsync(prefix, { qos: 1 })
    const m = await c.next()
    check(m.payload.toString() === 'kept' && m.retain, `found ${m.payload}`)
    await c.mqtt.publishAsync(prefix, '', { qos: 1, retain: true })
    check((await c.next()).payload.length === 0, 'the empty message does not arrive')
    await c.mqtt.unsubscribeAsync(prefix)
    await c.mqtt.subscribeAsync(prefix, { qos: 1 })
    await c.mqtt.publishAsync(prefix, 'live', { qos: 1 })
    check((await c.next()).payload.toString() === 'live', 'a retained message is left')
    await c.close()
  },

  async will(transport, version, prefix) {
    const watcher = await Client.open(transport, version, prefix + 'w')
    await watcher.mqtt.subscribeAsync(prefix, { qos: 1 })
    const victim = await Client.open(transport, version, prefix + 'v', { will: { topic: prefix, payload: Buffer.from('gone'), qos: 1, retain: false } })
    victim.mqtt.stream.destroy()
    check((await watcher.next()).payload.toString() === 'gone', 'another will')
    await watcher.close()
  },

  async session(transport, version, prefix) {
    const keep = { clean: false, ...(version === 5 ? { properties: { sessionExpiryInterval: 300 } } : {}) }
    let s = await Client.open(transport, version, prefix + 's', keep)
    check(!s.connack.sessionPresent, 'a session is there already')
    await s.mqtt.subscribeAsync(prefix, { qos: 2 })
    await s.close()
    const p = await Client.open(transport, version, prefix + 'p')
    for (let i = 0; i < 30; i++) await p.mqtt.publishAsync(prefix, `m${i}`, { qos: i < 15 ? 1 : 2 })
    s = await Client.open(transport, version, prefix + 's', keep)
    check(s.connack.sessionPresent || version === 3, 'the session is gone') // 3.1 has no such flag
    for (let i = 0; i < 30; i++) {
      const m = await s.next()
      check(m.payload.toString() === `m${i}` && m.qos === (i < 15 ? 1 : 2), `${i}: found ${m.payload} at ${m.qos}`)
    }
    await s.close()
    await p.close()
  },

  async properties(transport, version, prefix) {
    if (version !== 5) return
    const c = await Client.open(transport, version, prefix, { properties: { topicAliasMaximum: 10, receiveMaximum: 5 } })
    await c.mqtt.subscribeAsync(prefix, { qos: 1, properties: { subscriptionIdentifier: 9 } })
    for (let i = 0; i < 5; i++) {
      await c.mqtt.publishAsync(prefix, 'body', {
        qos: 1,
        properties: {
          contentType: 'text/plain', responseTopic: 'answers', correlationData: Buffer.from([0, 1]), messageExpiryInterval: 100,
          payloadFormatIndicator: true, userProperties: { k: ['v', 'w'] },
        },
      })
      const { payload, properties: p } = await c.next()
      check(payload.toString() === 'body' && p.contentType === 'text/plain' && p.responseTopic === 'answers', JSON.stringify(p))
      check(p.correlationData.equals(Buffer.from([0, 1])) && p.payloadFormatIndicator && p.messageExpiryInterval <= 100, JSON.stringify(p))
      check(p.subscriptionIdentifier === 9 && p.userProperties.k.join() === 'v,w', JSON.stringify(p))
    }
    await c.close()
  },
}

for (const transport of Object.keys(schemes)) {
  for (const version of [3, 4, 5]) {
    for (const [test, run] of Object.entries(tests)) {
      if (test === 'properties' && version !== 5) continue
      const name = `${transport} ${{ 3: '3.1', 4: '3.1.1', 5: '5' }[version]} ${test}`
      try {
        await run(transport, version, `js${transport}${version}${test}`)
        console.log(`PASS ${name}`)
      } catch (e) {
        console.log(`FAIL ${name}: ${e.message}`)
      }
    }
  }
}
process.exit(0)
