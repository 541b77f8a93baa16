// What a scenario can do: make stock clients, tokens and subscriptions; have the test that started it run SQL or restart
// the server (one JSON line on stdout each, answered by one line on stdin).

import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { createInterface } from 'node:readline'
import { isDeepStrictEqual } from 'node:util'
import ws from 'ws'

const [, , version] = process.argv
const { createClient } = await import(`supabase-js-${version}`)
const { WALCAST_URL, WALCAST_JWT_SECRET, WALCAST_PUBLISHABLE_KEY } = process.env
const PATIENCE_MS = 40_000

export const isNew = version === 'new'
export const ALICE = 'a0000000-0000-4000-8000-000000000001'
export const BOB = 'b0000000-0000-4000-8000-000000000002'
export const ALICES = 'c0000000-0000-4000-8000-00000000000a'
export const BOBS = 'c0000000-0000-4000-8000-00000000000b'

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]()

async function request (what) {
  process.stdout.write(`${JSON.stringify(what)}\n`)
  const { value, done } = await answers.next()
  assert.ok(!done, 'the test has ended')
  return value
}

export const sql = (text) => request({ sql: text })
export const killServer = () => request({ server: 'kill' })
export const startServer = () => request({ server: 'start' })

export function mint (claims, secret = WALCAST_JWT_SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

export const now = () => Math.floor(Date.now() / 1000)
export const tokenOf = (sub, seconds = 3600) => mint({ role: 'authenticated', sub, exp: now() + seconds })

export function patiently (what, promise) {
  let timer
  const gaveUp = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`gave up waiting for ${what}`)), PATIENCE_MS)
  })
  return Promise.race([promise, gaveUp]).finally(() => clearTimeout(timer))
}

// Values that arrive whenever they do, to be taken one after the other.
export class Inbox {
  #values = []
  #waiting = []

  put (value) {
    const taker = this.#waiting.shift()
    if (taker) taker(value)
    else this.#values.push(value)
  }

  take (what = 'something') {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift())
    return patiently(what, new Promise((resolve) => this.#waiting.push(resolve)))
  }

  async until (wanted, what) {
    for (;;) {
      const value = await this.take(what)
      if (wanted(value)) return value
    }
  }
}

export function connect (options = {}) {
  return connectWith(createClient, isNew, options)
}

// A client of the other release, for what both must understand.
export async function connectOther () {
  const other = await import(`supabase-js-${isNew ? 'old' : 'new'}`)
  return connectWith(other.createClient, !isNew, {})
}

function connectWith (create, needsTransport, options) {
  return create(WALCAST_URL, WALCAST_PUBLISHABLE_KEY, {
    auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false },
    ...options,
    // Node 20 has no WebSocket of its own. The old release finds `ws` by itself and does not survive being given it.
    realtime: { ...options.realtime, ...(needsTransport ? { transport: ws } : {}) }
  })
}

// A client whose joins carry this token. The newest release forgets a token given to setAuth when it reconnects; it wants
// to ask for it.
export async function connectAs (token, options = {}) {
  const held = { token }
  const client = connect(isNew ? { ...options, accessToken: async () => held.token } : options)
  held.of = client
  holders.push(held)
  await changeToken(client, token)
  return client
}

const holders = []

export async function changeToken (client, token) {
  holders.find((held) => held.of === client).token = token
  await client.realtime.setAuth(isNew ? undefined : token)
}

let fences = 0

// A channel with bindings and, beside them, one to the fence table.
export class Subscription {
  changes = new Inbox()
  statuses = new Inbox()
  systems = new Inbox()

  constructor (client, bindings, { topic = 'room', config = {} } = {}) {
    this.client = client
    this.channel = client.channel(topic, { config })
    for (const binding of [bindings].flat()) {
      this.channel.on('postgres_changes', binding, (change) => this.changes.put(change))
    }
    this.channel.on('postgres_changes', { event: 'INSERT', schema: 'fence', table: 'line' }, (change) => {
      this.changes.put({ fence: change.new.n })
    })
    this.channel.on('system', {}, (message) => this.systems.put(message))
  }

  start () {
    this.channel.subscribe((status, error) => this.statuses.put({ status, error }))
    return this
  }

  async status (wanted) {
    return await this.statuses.until(({ status, error }) => {
      const refused = status === 'CHANNEL_ERROR' && wanted === 'SUBSCRIBED' && error !== undefined && !this.mayFail
      if (refused) throw new Error(`${status}: ${error?.message}`)
      return status === wanted
    }, wanted)
  }

  // Everything that came before a row that was committed now.
  async settled () {
    const fence = await drawFence()
    const before = []
    for (;;) {
      const change = await this.changes.take(`fence ${fence}`)
      if (change.fence === fence) return before
      if (change.fence === undefined) before.push(change)
    }
  }

  async change () {
    return await this.changes.until((change) => change.fence === undefined, 'a change')
  }
}

export async function drawFence () {
  fences += 1
  await sql(`insert into fence.line values (${fences})`)
  return fences
}

export async function subscribe (client, bindings, options) {
  const subscription = new Subscription(client, bindings, options).start()
  await subscription.status('SUBSCRIBED')
  return subscription
}

export const messages = { event: '*', schema: 'public', table: 'messages' }

export const say = (conversation, content) => sql(
  `insert into messages (conversation_id, sender_id, sender_type, content)
   values ('${conversation}', '${ALICE}', 'user', '${content}')`
)

export const contents = (changes) => changes.map((change) => change.new.content)

// A channel without bindings: broadcasts and, if wanted, presence.
export class Room {
  heard = new Inbox()
  statuses = new Inbox()
  systems = new Inbox()
  joins = []
  leaves = []
  #syncs = new Inbox()

  constructor (client, topic, { config = {}, presence = false } = {}) {
    this.client = client
    this.channel = client.channel(topic, { config })
    this.channel.on('broadcast', { event: '*' }, (message) => this.heard.put(message))
    this.channel.on('system', {}, (message) => this.systems.put(message))
    if (presence) {
      this.channel.on('presence', { event: 'sync' }, () => this.#syncs.put('sync'))
      this.channel.on('presence', { event: 'join' }, (change) => this.joins.push(change))
      this.channel.on('presence', { event: 'leave' }, (change) => this.leaves.push(change))
    }
  }

  start () {
    this.channel.subscribe((status, error) => this.statuses.put({ status, error }))
    return this
  }

  async status (wanted) {
    return await this.statuses.until(({ status, error }) => {
      const refused = status === 'CHANNEL_ERROR' && wanted === 'SUBSCRIBED' && error?.message !== undefined && !this.mayFail
      if (refused) throw new Error(`${status}: ${error.message}`)
      return status === wanted
    }, wanted)
  }

  say (event, payload, more = {}) {
    return patiently(`the end of send ${event}`, this.channel.send({ type: 'broadcast', event, payload, ...more }))
  }

  // Event and payload of the next broadcast.
  async hear () {
    const { event, payload } = await this.heard.take('a broadcast')
    return [event, payload]
  }

  async synced () {
    await this.#syncs.take('sync')
  }

  // Waits until exactly these are present: { key: [payload, …] }.
  async attendedBy (expected) {
    for (;;) {
      const seen = view(this.channel.presenceState())
      if (isDeepStrictEqual(seen, expected)) return
      await this.#syncs.take(`presence of ${JSON.stringify(expected)} instead of ${JSON.stringify(seen)}`)
    }
  }
}

function view (state) {
  const plain = ({ presence_ref: ref, ...payload }) => payload
  const sorted = (metas) => metas.map(plain).sort((a, b) => JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)
  return Object.fromEntries(Object.entries(state).map(([key, metas]) => [key, sorted(metas)]))
}

export async function enter (client, topic, options) {
  const room = new Room(client, topic, options).start()
  await room.status('SUBSCRIBED')
  return room
}
