// node run.mjs old|new SCENARIO: exits with 0 if the scenario holds.

import * as scenarios from './scenarios.mjs'

const [, , , name] = process.argv
const scenario = scenarios[name]
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
