// node run.mjs old|new SCENARIO: exits with 0 if the scenario holds.

import * as broadcasts from './scenarios-broadcast.mjs'
import * as pages from './scenarios-browser.mjs'
import * as presence from './scenarios-presence.mjs'
import * as channels from './scenarios-private.mjs'
import * as changes from './scenarios.mjs'

const [, , , name] = process.argv
const scenario = { ...changes, ...broadcasts, ...presence, ...channels, ...pages }[name]
if (scenario === undefined) {
  console.error(`no scenario ${name}`)
  process.exit(2)
}
try {
  await scenario()
  process.exit(0)
} catch (error) {
  console.error(error)
  process.exit(1)
}
