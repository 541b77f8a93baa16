// A page in Debian's Chromium with a stock client, and a connection to walcast that can be cut.

import { existsSync, readFileSync } from 'node:fs'
import { createServer as createHttpServer } from 'node:http'
import { connect as connectTo, createServer } from 'node:net'
import { patiently } from './world.mjs'

const [, , version] = process.argv
const { WALCAST_URL, CHROMIUM } = process.env
const NAMES = ['chromium', 'chromium-browser', 'google-chrome']

// CHROMIUM, or what the path has.
function findProgram () {
  const folders = (process.env.PATH ?? '').split(':')
  const found = NAMES.flatMap((name) => folders.map((folder) => `${folder}/${name}`))
  const program = [CHROMIUM, ...found].find((path) => path !== undefined && existsSync(path))
  if (program === undefined) throw new Error('chromium is not installed; run: scripts/install clients')
  return program
}

async function listen (server) {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}

// Passes bytes on to walcast until it is cut, and again once it is mended.
export class Line {
  #open = new Set()
  #cut = false

  async start () {
    const { hostname, port } = new URL(WALCAST_URL)
    const server = createServer((near) => {
      near.on('error', () => {})
      if (this.#cut) return near.destroy()
      const far = connectTo(Number(port), hostname)
      for (const [one, other] of [[near, far], [far, near]]) {
        this.#open.add(one)
        one.on('error', () => {})
        one.on('close', () => {
          this.#open.delete(one)
          other.destroy()
        })
        one.pipe(other)
      }
    })
    this.url = `http://127.0.0.1:${await listen(server)}`
    return this
  }

  cut () {
    this.#cut = true
    for (const socket of this.#open) socket.resetAndDestroy()
  }

  mend () {
    this.#cut = false
  }
}

// An empty page with `supabase`, as a bundle of the release makes it.
export async function openPage () {
  const program = findProgram()
  const bundle = readFileSync(`node_modules/supabase-js-${version}/dist/umd/supabase.js`)
  const server = createHttpServer((request, response) => {
    if (request.url === '/supabase.js') {
      response.setHeader('content-type', 'text/javascript; charset=utf-8')
      return response.end(bundle)
    }
    response.setHeader('content-type', 'text/html; charset=utf-8')
    response.end('<!doctype html><title>walcast</title><script src="/supabase.js"></script>')
  })
  const port = await listen(server)
  const { chromium } = await import('playwright-core')
  // Tests run as root in containers, where there is no sandbox and little shared memory.
  const args = ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu']
  const browser = await patiently('chromium', chromium.launch({ executablePath: program, args }))
  const page = await browser.newPage()
  page.on('pageerror', (error) => console.error('in the page:', error))
  await page.goto(`http://127.0.0.1:${port}/`)
  return { browser, page }
}
