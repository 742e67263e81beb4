"""A LiveKit worker that tells Finalizer of its calls. The job's metadata says whose call it is:

  {"session_id": "0197…", "tenant_id": "acme", "character_slug": "support-bot", "character_owner": 7}
"""

import json
import os

from finalizer_livekit import session_ended
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, cli
from publisher import Publisher

server = AgentServer()
publisher = Publisher(os.environ["FINALIZER_AMQP_URL"], os.environ["FINALIZER_SPOOL"])


async def on_session_end(ctx: JobContext):
    event = session_ended(ctx.make_session_report(), **json.loads(ctx.job.metadata))
    await publisher.publish(event)


@server.rtc_session(on_session_end=on_session_end)
async def entrypoint(ctx: JobContext):
    session = AgentSession()  # with your models
    await session.start(Agent(instructions="You are helpful."), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)
